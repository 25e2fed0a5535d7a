"""The directory of a fine-tuning: which one it belongs to, its finished seeds, and the finished model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import TypedDict

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import check_vacant, read_json, write_whole
from llm_jp_modernbert.core.results import Results, Row
from llm_jp_modernbert.core.yaml_files import read_yaml

from ...recipe.arguments import LaunchedArguments
from ...recipe.loading import NOT_DECISIVE, plain_values
from ...recipe.values import default_values, plain_value
from ..record import RECORD, Record
from .base import Base

RECIPE = "recipe.yaml"
"""File of all resolved options."""

CONFIG = "config.json"
"""Written last: a directory that holds it is complete."""

RESULTS = "results"
"""Directory of the scores, see `core.results`."""

MODEL = "model"
"""Directory of a seed's best weights."""

# Options that do not affect the model, and those that `arguments` contains.
_NOT_DECISIVE = ("out", "tokens_per_batch", "overrides")
# Arguments that the recipe names even if they are transformers' defaults.
_ALWAYS_NAMED = (
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "lr_scheduler_type",
    "weight_decay",
)

_UNFINISHED = "unfinished"
_RESULT = "result.json"


@dataclass(frozen=True)
class Finetuned:
    """A finished fine-tuning.

    Attributes:
        folder: directory of the model.
        record: content of its `finetuning.json`.
        rows: its scores; those on validation for every seed.
    """

    folder: Path
    record: Record
    rows: list[Row]


def read_finished(folder: Path) -> Finetuned:
    """Reads what `finetune` has written into a directory."""
    record: Record = read_json(folder / RECORD, Record)
    return Finetuned(folder, record, list(Results(folder / RESULTS).rows()))


class SeedResult(TypedDict):
    """A finished training.

    Attributes:
        seed: its random seed.
        epoch: the epoch that was kept.
        seconds: its duration.
        metrics: metrics on the validation part.
        losses: epoch and training loss, as logged.
        scores: epoch and the metric on validation.
    """

    seed: int
    epoch: float
    seconds: float
    metrics: dict[str, float | None]
    losses: list[tuple[float, float]]
    scores: list[tuple[float, float]]


class Folder:
    """The directory `out`. Only the holder of its lock may use it.

    Args:
        out: its path.
        job: name of what it is the result of, for messages.
        recipe_file: name of the file of all resolved options.
    """

    def __init__(self, out: Path, job: str = "fine-tuning", recipe_file: str = RECIPE) -> None:
        self.out, self._job, self._file = out, job, recipe_file
        self.unfinished = out / _UNFINISHED
        self._recipe: Mapping[str, Any] = {}

    def open(self, recipe: Mapping[str, Any]) -> bool:
        """Checks that the directory is empty, or belongs to the same training.

        Args:
            recipe: everything that the model depends on.

        Returns:
            Whether the model is finished.

        Raises:
            UsageError: the directory holds other files, or a different training.
        """
        is_finished = (self.out / CONFIG).is_file()
        saved = (self.out if is_finished else self.unfinished) / self._file
        if saved.is_file():
            changed = _differences(read_yaml(saved), recipe)
            # Without checkpoints nothing can be lost, so the options may be corrected.
            if changed and (is_finished or any(self.unfinished.glob("seed-*/*"))):
                listed = "; ".join(changed[:5]) + ("; …" if changed[5:] else "")
                raise UsageError(
                    f"--out {self.out} already contains a different {self._job} ({listed}). Use the same options, or "
                    "a different directory."
                )
        else:
            with suppress(OSError):
                # A process killed at its beginning leaves it empty.
                self.unfinished.rmdir()
            check_vacant(self.out, "--out")
        self._recipe = recipe
        return is_finished

    def start(self) -> None:
        """Creates the directory, once nothing but the training can fail."""
        self.unfinished.mkdir(parents=True, exist_ok=True)
        write_whole(self.unfinished / self._file, render(self._recipe))

    def discard(self) -> None:
        """Removes the directory after a user's mistake, unless a training has begun."""
        if not any(self.unfinished.glob("seed-*/*")):
            shutil.rmtree(self.unfinished, ignore_errors=True)
            with suppress(OSError):
                self.out.rmdir()

    def seed(self, seed: int) -> Path:
        """The directory of a seed's checkpoints and result."""
        return self.unfinished / f"seed-{seed}"

    def result(self, seed: int) -> SeedResult | None:
        """The result of a finished seed."""
        path = self.seed(seed) / _RESULT
        return read_json(path, SeedResult) if path.is_file() else None

    def keep(self, result: SeedResult) -> None:
        """Marks a seed as finished, whose model is saved; its checkpoints are removed."""
        folder = self.seed(result["seed"])
        write_whole(folder / _RESULT, json.dumps(result) + "\n")
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)

    def stage(self, seed: int) -> Path:
        """A directory with the model of a seed, to be completed and passed to `finish`."""
        staged = self.unfinished / "complete"
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(self.seed(seed) / MODEL, staged)
        shutil.copy(self.unfinished / self._file, staged)
        return staged

    def finish(self, staged: Path) -> None:
        """Moves the complete model into place, config.json last, and removes what led to it."""
        for path in sorted(staged.iterdir(), key=lambda path: path.name == CONFIG):
            if (self.out / path.name).is_dir():
                shutil.rmtree(self.out / path.name)
            os.replace(path, self.out / path.name)
        shutil.rmtree(self.unfinished, ignore_errors=True)


def recipe_of(
    options: Any,
    base: Base,
    arguments: LaunchedArguments,
    columns: Mapping[str, str],
    data_revisions: Mapping[str, str],
) -> dict[str, Any]:
    """Everything that a model depends on: options, revisions, and arguments unlike transformers' defaults.

    Args:
        options: options of the command, a dataclass.
        base: the model to start from.
        arguments: arguments of the trainer.
        columns: role → column of the data.
        data_revisions: revision of each part of the data.
    """
    chosen = {name: value for name, value in asdict(options).items() if name not in _NOT_DECISIVE}
    chosen["base_revision"] = base.revision
    chosen["max_length"] = base.max_length
    chosen["columns"] = dict(columns)
    chosen["data_revisions"] = dict(data_revisions)
    defaults = default_values(LaunchedArguments)
    chosen["arguments"] = {
        name: value
        for name, value in plain_values(arguments).items()
        if name not in NOT_DECISIVE and (name in _ALWAYS_NAMED or value != plain_value(defaults.get(name)))
    }
    return chosen


def render(recipe: Mapping[str, Any]) -> str:
    """A recipe as YAML."""
    return yaml.safe_dump(dict(recipe), allow_unicode=True, sort_keys=False, width=119)


def _differences(saved: Any, recipe: Mapping[str, Any]) -> list[str]:
    """One line per option that differs."""
    then, now = dict(_flat(saved)), dict(_flat(json.loads(json.dumps(recipe))))
    return [
        f"{name}: {_short(then.get(name))} then, {_short(now.get(name))} now"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    text = "none" if value in (None, [], "") else str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
