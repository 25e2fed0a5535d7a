"""Result rows and the directory that stores them.

`<folder>/<task>/<model>/<protocol>-<key>.json` holds the rows of one finished measurement, and
`….instances.jsonl` next to it the model's output for each example. The key is a hash of everything that the result
depends on, so each measurement is made once, and a different setting, seed, dataset or weight never overwrites it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from .checkpoint_names import CheckpointName
from .errors import UsageError
from .files import parse_json, read_json, write_json, write_whole
from .results_schema_1 import upgrade
from .versions import library_versions

FORMER_DEFAULT_PROTOCOL = "improved"
"""Name of the protocol `default` in earlier versions."""


def current_protocol(name: str) -> str:
    """The present name of a protocol."""
    return "default" if name == FORMER_DEFAULT_PROTOCOL else name


RANKING_METRIC = "ndcg@10"
"""Main metric of rankings."""

EMBEDDING_FILES = "embedding_files"
"""Setting of an embedder in a directory: a hash of its modules."""

RERANKED = "reranked"
"""Setting of a reranker: whose passages it orders."""

# Settings that belong to the model: values that differ in them can be compared.
_OF_MODEL = (EMBEDDING_FILES, RERANKED, f"{RERANKED}_revision")

READ_OFF = "read_off_a_plot"
"""Setting that marks a value read off a published plot."""

SCHEMA = 2
"""Version of the schema, stored in every file. Files of schema 1 are upgraded when read."""

_LIBRARIES = ("llm-jp-modernbert", "transformers", "torch", "tokenizers", "datasets", "sentence-transformers")


class GridPoint(TypedDict):
    """A point of a grid and the value of the metric there; None if undefined."""

    learning_rate: float
    epochs: int
    value: float | None


@dataclass(frozen=True)
class Measurement:
    """A value that a task measured.

    Attributes:
        metric: name of the metric, for example `accuracy`.
        value: None if undefined, for example a correlation with constant predictions.
        higher_is_better: direction of the metric.
        subset: part of the data, for example a category; empty for all of it.
        examples: number of examples; None for all examples of the data.
        low: lower end of the 95 % confidence interval, if any.
        high: upper end of it.
        baseline: value of the simplest guess, for example the majority class, if known.
        split: the split measured on, if the task reports several.
        scale: factor that tables show the value with: 100 for shares and correlations.
        context: tokens of context; for a bin of document lengths, its upper limit.
        selected_on: split on which the grid point was selected.
        learning_rate: of the selected grid point.
        epochs: of the selected grid point.
        train_examples: number of training examples.
        grid: all points of the grid.
        averaged_with: tasks, or datasets of one task, whose values are averaged with this one, itself included.
    """

    metric: str
    value: float | None
    higher_is_better: bool = True
    subset: str = ""
    examples: int | None = None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    split: str | None = None
    scale: int = 1
    context: int | None = None
    selected_on: str | None = None
    learning_rate: float | None = None
    epochs: int | None = None
    train_examples: int | None = None
    grid: Sequence[GridPoint] = ()
    averaged_with: Sequence[str] = ()


@dataclass(frozen=True)
class Run:
    """Everything that a result depends on.

    Attributes:
        task: name of the task, for example `fill-mask`.
        model: directory or repository, as given.
        revision: commit of the repository, or `sha256:…` of a directory's weights.
        protocol: `paper` or `default`.
        settings: every setting of the protocol, as plain values.
        seed: random seed.
        dataset: name of the data.
        dataset_revision: commit of its repository, or `sha256:…` of its files.
        split: the split measured on.
        examples: number of examples of that split.
        train_files: names of the user's training files.
        text_files: names of the user's text files measured on.
        selector: value of `--tasks` that selects the task; by default its name.
    """

    task: str
    model: str
    revision: str
    protocol: str
    settings: dict[str, Any]
    seed: int
    dataset: str
    dataset_revision: str
    split: str
    examples: int
    train_files: tuple[str, ...] = ()
    text_files: tuple[str, ...] = ()
    selector: str = ""

    @property
    def key(self) -> str:
        """Eight hexadecimal digits of a hash over the run; a directory counts by its weights, not by its path."""
        names = [item.name for item in fields(self) if item.name not in ("train_files", "text_files", "selector")]
        identity = {name: getattr(self, name) for name in names}
        if self.protocol == "default":
            # The name of earlier versions, so that their measurements are recognised.
            identity["protocol"] = FORMER_DEFAULT_PROTOCOL
        if self.revision.startswith("sha256:"):
            identity["model"] = ""
        if self.train_files:
            # The form of schema 1, so that its measurements are recognised.
            identity["dataset"] = f"{self.dataset} trained on {'+'.join(self.train_files)}"
        return hashlib.sha256(json.dumps(identity, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Row:
    """One value with everything known about it; attributes as in `Run` and `Measurement`.

    Attributes:
        stage: training stage of a checkpoint; empty if unknown.
        step: optimizer steps of a checkpoint; None for other models.
        versions: versions of the libraries that measured it.
    """

    task: str
    dataset: str
    split: str
    metric: str
    value: float | None
    model: str
    protocol: str
    dataset_revision: str = ""
    subset: str = ""
    examples: int = 0
    scale: int = 1
    higher_is_better: bool = True
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    revision: str = ""
    stage: str = ""
    step: int | None = None
    context: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    train_files: Sequence[str] = ()
    text_files: Sequence[str] = ()
    selector: str = ""
    selected_on: str | None = None
    learning_rate: float | None = None
    epochs: int | None = None
    train_examples: int | None = None
    grid: Sequence[GridPoint] = ()
    averaged_with: Sequence[str] = ()
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)


def dataset_slug(name: str) -> str:
    """A dataset's name in the form that the Hub requires of `dataset.type` in a model card.

    Args:
        name: a repository, `ORG/NAME` or `ORG/NAME/CONFIG`, of which `ORG/NAME` is kept; or any text, of which letters
            and digits of ASCII are kept.
    """
    repository = re.fullmatch(r"([\w-]+/[\w.-]+)(/[^/]+)?", name, re.ASCII)
    return repository[1] if repository else re.sub(r"[^\w.]+", "-", name, flags=re.ASCII).strip("-.") or "texts"


def comparable_settings(row: Row) -> tuple[tuple[str, str], ...]:
    """Name and value of the settings that two values must share to be compared.

    The limit is not among them: it is part of the data.
    """
    settings = {name: value for name, value in row.settings.items() if name not in ("limit", READ_OFF, *_OF_MODEL)}
    if row.context is not None:
        settings["context"] = row.context
    texts = {
        name: ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        for name, value in settings.items()
    }
    return tuple(sorted(texts.items()))


def differing_settings(settings: Iterable[tuple[str, str]], others: Iterable[Iterable[tuple[str, str]]]) -> list[str]:
    """Comparable settings whose value differs in at least one of the others, for example `pooling mean`."""
    alternatives = [dict(other) for other in others]
    return [
        f"{name.replace('_', ' ')} {value}"
        for name, value in settings
        if any(alternative.get(name) != value for alternative in alternatives)
    ]


def trajectories(models: Sequence[str]) -> list[list[str]]:
    """Checkpoints of one run ordered by step, for each run with two or more among the given names."""
    runs: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for model in dict.fromkeys(models):
        name = CheckpointName.parse(model)
        if name is not None and name.origin:
            runs.setdefault((name.origin, name.stage), []).append((name.step, model))
    return [[model for _, model in sorted(steps)] for steps in runs.values() if len(steps) > 1]


class Results:
    """The directory of results.

    Args:
        folder: created when the first result is written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def path(self, run: Run) -> Path:
        """The file of a run's rows, which an earlier version may have named by another name of the protocol."""
        folder = self.folder / run.task / model_folder(run.model)
        return next(folder.glob(f"*-{run.key}.json"), folder / f"{run.protocol}-{run.key}.json")

    def find(self, run: Run) -> list[Row] | None:
        """The rows of a finished run, or None."""
        path = self.path(run)
        return read_rows(path) if path.is_file() else None

    def write(
        self, run: Run, measurements: Iterable[Measurement], instances: Sequence[dict[str, Any]] = ()
    ) -> list[Row]:
        """Writes a finished run; its rows are written last, so a file of rows marks a complete result."""
        common = {item.name: getattr(run, item.name) for item in fields(run)}
        common |= {"selector": run.selector or run.task, "versions": library_versions(_LIBRARIES)}
        common |= _checkpoint_fields(run.model)
        rows = []
        for measurement in measurements:
            values = {item.name: getattr(measurement, item.name) for item in fields(measurement)}
            for name in ("value", "low", "high", "baseline"):
                number = values[name]
                values[name] = None if number is None or not math.isfinite(number) else float(number)
            for name in ("examples", "split"):
                values[name] = common[name] if values[name] is None else values[name]
            rows.append(Row(**{**common, **values}))
        path = self.path(run)
        if instances:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(instance, ensure_ascii=False) for instance in instances)
            write_whole(instances_of(path), "".join(f"{line}\n" for line in lines))
        write_rows(path, rows)
        return rows

    def rows(self) -> Iterator[Row]:
        """All rows, file by file.

        Raises:
            UsageError: the directory is missing, or a file is invalid.
        """
        for path in self.files():
            yield from read_rows(path)

    def measurements(self) -> Iterator[tuple[list[Row], list[dict[str, Any]]]]:
        """Rows and instances of each finished run; raises like `rows`."""
        for path in self.files():
            rows = read_rows(path)
            if rows:
                yield rows, read_instances(path)

    def files(self) -> list[Path]:
        """The files of rows; raises like `rows`."""
        if not self.folder.is_dir():
            raise UsageError(f"{self.folder}: no such folder of results. Run `evaluate` first, or set --results.")
        return sorted(self.folder.glob("*/*/*.json"), key=_in_numeric_order)


class _File(TypedDict):
    """A file of rows of any schema."""

    schema: int
    rows: list[dict[str, Any]]


def _in_numeric_order(path: Path) -> list[list[str]]:
    """Sort key by folder, with step 220 before step 1100."""
    return [[part.zfill(12) if part.isdigit() else part for part in re.split(r"(\d+)", name)] for name in path.parts]


def instances_of(path: Path) -> Path:
    """The instances file that belongs to a file of rows."""
    return path.with_name(f"{path.stem}.instances.jsonl")


def read_instances(rows_file: Path) -> list[dict[str, Any]]:
    """The model's output for each example, stored with a file of rows; empty if missing."""
    path = instances_of(rows_file)
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [parse_json(line, f"{path}: row {row}", dict[str, Any]) for row, line in enumerate(lines, start=1) if line]


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of one file.

    Raises:
        UsageError: not a results file, or a newer schema.
    """
    payload = read_json(path, _File)
    if payload["schema"] not in (1, SCHEMA):
        raise UsageError(f"{path}: results of schema {payload['schema']}; this version reads up to {SCHEMA}.")
    rows = payload["rows"]
    try:
        if payload["schema"] == 1:
            rows = [{**upgrade(row), **_checkpoint_fields(row["model"])} for row in rows]
        rows = [{**row, "protocol": current_protocol(row["protocol"])} for row in rows]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path}: not a results file ({error}). Move it out of the folder, or measure again."
        ) from error
    validated: list[Row] = parse_json(json.dumps(rows), f"{path}: rows", list[Row])
    return validated


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes a file of rows; creates its parent directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = {"schema": SCHEMA, "rows": [asdict(row) for row in rows]}
    write_json(path, payload)


def model_folder(model: str) -> str:
    """Directory name of a model: `ORG--NAME` for `ORG/NAME`, the last two parts of a local path."""
    name = str(Path(os.path.expanduser(model)).resolve()) if os.path.isdir(model) else model
    return re.sub(r"[^\w.@-]+", "--", "/".join(name.strip("/").split("/")[-2:]))


def _checkpoint_fields(model: str) -> dict[str, Any]:
    """Stage and step of a model whose name is that of a checkpoint."""
    name = CheckpointName.parse(model)
    if name is None:
        return {"stage": "", "step": None}
    return {"stage": "" if name.stage == "checkpoint" else name.stage, "step": name.step}
