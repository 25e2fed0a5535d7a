"""Rows of results, and the folder that holds them.

`<folder>/<task>/<model>/<protocol>-<key>.json` holds the rows of one finished measurement and
`….instances.jsonl` beside it what the model gave for each example. The key is a hash of everything that a result
depends on, so that a measurement is made once, and another setting, seed, dataset or weight never overwrites it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import write_whole
from llm_jp_modernbert.core.versions import library_versions

READ_OFF = "read_off_a_plot"
"""The setting of a result that marks a figure that its authors did not print."""

SCHEMA = 1
"""Version of the schema, in every file."""

_NOT_COMPARED = ("limit", "selected_on", "learning_rate", "train_examples", READ_OFF)

_LIBRARIES = ("llm-jp-modernbert", "transformers", "torch", "tokenizers", "datasets", "sentence-transformers")


@dataclass(frozen=True)
class Measurement:
    """A figure that a task found.

    Attributes:
        metric: such as `accuracy`.
        value: the figure; None where it is undefined, as a correlation with constant predictions is.
        higher_is_better: its direction.
        subset: the part of the data it is of, such as a category or a length; empty for all.
        examples: how many examples it is of.
        low: lower end of the 95 % confidence interval, where there is one.
        high: its upper end.
        baseline: what the simplest guess reaches, such as the majority class, where that is told.
        split: where the task reports several splits, the one that this is of.
        settings: what this figure adds to the run's settings, such as the chosen grid point.
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
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """All that a result depends on.

    Attributes:
        task: such as `fill-mask`.
        model: directory or repository, as given.
        revision: commit of the repository, or `sha256:…` of a directory's weights.
        protocol: `paper` or `improved`.
        settings: every setting of the protocol, as plain values.
        seed: of everything that is drawn.
        dataset: name of the data.
        dataset_revision: commit of its repository, or `sha256:…` of its files.
        split: the part of it that is measured on.
        examples: how many examples that part has.
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

    @property
    def key(self) -> str:
        """Eight hexadecimal digits of the hash over all of it; where a model lies does not matter, its weights do."""
        identity = {**asdict(self), "model": "" if self.revision.startswith("sha256:") else self.model}
        return hashlib.sha256(json.dumps(identity, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Row:
    """One figure with all that is known of it; attributes as in `Run` and `Measurement`."""

    task: str
    dataset: str
    dataset_revision: str
    split: str
    subset: str
    examples: int
    metric: str
    value: float | None
    higher_is_better: bool
    low: float | None
    high: float | None
    baseline: float | None
    model: str
    revision: str
    protocol: str
    settings: dict[str, Any]
    seed: int
    versions: dict[str, str]


def comparable_settings(row: Row) -> tuple[tuple[str, str], ...]:
    """The settings that two figures must have in common to be compared, by name, and how they are written.

    What a figure adds to them, such as the chosen point of a grid, is not among them, nor a limit, which rows have in
    common with their data.
    """
    settings = {name: value for name, value in row.settings.items() if name not in _NOT_COMPARED}
    if "grid" in settings:
        settings["grid"] = list(settings["grid"])
        settings.pop("epochs", None)
    return tuple(sorted((name, _written(value)) for name, value in settings.items()))


def told_apart(settings: Iterable[tuple[str, str]], others: Iterable[Iterable[tuple[str, str]]]) -> list[str]:
    """What of comparable settings one of the others has otherwise, such as `pooling mean`."""
    found = [dict(other) for other in others]
    return [
        f"{name.replace('_', ' ')} {value}"
        for name, value in settings
        if any(other.get(name) != value for other in found)
    ]


def _written(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


class Results:
    """The folder of results.

    Args:
        folder: made when the first result is written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def path(self, run: Run) -> Path:
        """The file of a run's rows."""
        return self.folder / run.task / model_folder(run.model) / f"{run.protocol}-{run.key}.json"

    def find(self, run: Run) -> list[Row] | None:
        """The rows of a run that is finished, else None."""
        path = self.path(run)
        return read_rows(path) if path.is_file() else None

    def write(
        self, run: Run, measurements: Iterable[Measurement], instances: Sequence[dict[str, Any]] = ()
    ) -> list[Row]:
        """Writes a finished run; rows come last, so that they stand for a complete result."""
        rows = [_row(run, measurement) for measurement in measurements]
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
            UsageError: the folder is missing, or a file is not of this schema.
        """
        for path in self.files():
            yield from read_rows(path)

    def measurements(self) -> Iterator[tuple[list[Row], list[dict[str, Any]]]]:
        """Of each finished run its rows, and what the model gave for each example; errors as of `rows`."""
        for path in self.files():
            rows = read_rows(path)
            if rows:
                yield rows, _read_instances(path)

    def instances(self, run: Run) -> list[dict[str, Any]]:
        """What the model gave for each example of a finished run."""
        return _read_instances(self.path(run))

    def files(self) -> list[Path]:
        """The files of rows; errors as of `rows`."""
        if not self.folder.is_dir():
            raise UsageError(
                f"{self.folder}: no such folder of results. Make some with `evaluate`, or give --results."
            )
        return sorted(self.folder.glob("*/*/*.json"))


def instances_of(path: Path) -> Path:
    """The file of the examples that belongs to a file of rows."""
    return path.with_name(f"{path.stem}.instances.jsonl")


def _read_instances(rows_file: Path) -> list[dict[str, Any]]:
    path = instances_of(rows_file)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def read_rows(path: Path) -> list[Row]:
    """The rows of one file.

    Raises:
        UsageError: it is no file of results.
    """
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
        if payload["schema"] != SCHEMA:
            raise UsageError(f"{path}: results of schema {payload['schema']}; this version reads {SCHEMA}.")
        return [Row(**row) for row in payload["rows"]]
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path}: no file of results ({error}). Move it out of the folder, or measure again."
        ) from error


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes a file of rows, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = {"schema": SCHEMA, "rows": [asdict(row) for row in rows]}
    write_whole(path, json.dumps(payload, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def model_folder(model: str) -> str:
    """The name of a model's folder: `ORG--NAME` for `ORG/NAME`, a directory's own name and its parent's."""
    name = str(Path(model).expanduser().resolve()) if os.path.isdir(model) else model
    return re.sub(r"[^\w.@-]+", "--", "/".join(name.strip("/").split("/")[-2:]))


def _row(run: Run, found: Measurement) -> Row:
    values = {item.name: getattr(run, item.name) for item in fields(run)}
    values |= {item.name: getattr(found, item.name) for item in fields(found)}
    values |= {name: _finite(values[name]) for name in ("value", "low", "high", "baseline")}
    values["examples"] = run.examples if found.examples is None else found.examples
    values["split"] = run.split if found.split is None else found.split
    values["settings"] = {**run.settings, **found.settings}
    return Row(**values, versions=library_versions(_LIBRARIES))


def _finite(value: float | None) -> float | None:
    return None if value is None or not abs(value) < float("inf") else float(value)
