"""`finetuning.json`: the data, labels and trainings of a fine-tuned model.

The command `finetune` writes it into the model's directory; `release` and the model card read it. Metrics are not in
it: they are result rows in `results/` (see `core.results`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import NotRequired, TypedDict

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json, write_json

from .options import Kind

if TYPE_CHECKING:
    from llm_jp_modernbert.core.results import Row

RECORD = "finetuning.json"
"""File name of the record, in the directory of a fine-tuned model."""

ERRORS = "errors.jsonl"
"""File of the most confidently wrong predictions. It quotes the data, so it is not published."""


class Part(TypedDict):
    """One part of the data.

    Attributes:
        name: name of the dataset: a repository, or the file names joined by `+`.
        revision: commit of the repository, or `sha256:…` of the files.
        rows: number of examples.
        truncated: number of examples whose input was longer than `max_length` and lost tokens.
        tokens: total number of input tokens.
        longest: tokens of the longest input before truncation.
    """

    name: str
    revision: str
    rows: int
    truncated: int
    tokens: int
    longest: int


class Label(TypedDict):
    """A class, with counts by part (`train`, `validation`, `test`) and scores on the last part measured.

    Attributes:
        threshold: probability from which a label is assigned; for multi-label models.
        weight: weight in the loss, if labels were weighted.
    """

    name: str
    counts: dict[str, int]
    precision: NotRequired[float]
    recall: NotRequired[float]
    f1: NotRequired[float]
    threshold: NotRequired[float]
    weight: NotRequired[float]


class Seed(TypedDict):
    """One training: its seed, the epoch that was kept, and all metrics by part; None for an undefined metric."""

    seed: int
    epoch: float
    metrics: dict[str, dict[str, float | None]]


class Record(TypedDict):
    """Content of `finetuning.json`.

    Attributes:
        schema: version of this layout, 1.
        kind: type of task.
        multi_label: whether a text can have several labels.
        base: repository or directory name of the base model, without local parents.
        base_revision: its commit, or `sha256:…` of its weights.
        columns: role → column of the user's data, for example `{"text": "sentence", "label": "label"}`.
        labels: classes in the order of the model's outputs; for `ner` the entity types; empty for other tasks.
        metric: metric that selected epoch and seed.
        baseline: the constant prediction of the baseline, for example `the most frequent label`.
        parts: `train`, `validation` and, if there is one, `test`.
        best_seed: seed of the model that was kept.
        seeds: all trainings.
        confusion: `[gold][predicted]` counts in the order of `labels` on the last part measured; None if undefined
            or if there are many.
            For `ner`, the last row and column count entities whose span was predicted only or missed.
        unanswerable: whether questions without an answer were seen in training (`qa`).
        max_length: maximum tokens of an input.
        lora: whether low-rank adapters were trained and merged.
        seconds: duration of all trainings.
        device: processes and hardware, as in the log.
        versions: versions of the libraries.
    """

    schema: int
    kind: Kind
    multi_label: bool
    base: str
    base_revision: str
    columns: dict[str, str]
    labels: list[Label]
    metric: str
    baseline: NotRequired[str]
    parts: dict[str, Part]
    best_seed: int
    seeds: list[Seed]
    confusion: list[list[int]] | None
    unanswerable: bool
    max_length: int
    lora: bool
    seconds: float
    device: str
    versions: dict[str, str]


def read_record(folder: Path) -> Record | None:
    """The record of a fine-tuned model, or None if the directory holds none.

    Raises:
        UsageError: the file is not valid.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    record: Record = read_json(path, Record)
    if missing := {"train", "validation"} - record["parts"].keys():
        raise UsageError(f"{path}: parts lacks {' and '.join(sorted(missing))}.")
    confusion, size = record["confusion"], len(record["labels"]) + (record["kind"] == "ner")
    if confusion and {len(confusion), *map(len, confusion)} != {size}:
        raise UsageError(f"{path}: confusion is not a table of {size} × {size} counts.")
    return record


def is_recorded(record: Record, row: Row) -> bool:
    """Whether a result is one of the values in a record."""
    values = next((seed["metrics"].get(row.split, {}) for seed in record["seeds"] if seed["seed"] == row.seed), {})
    return row.task == f"finetune-{record['kind']}" and row.metric in values and values[row.metric] == row.value


def write_record(folder: Path, record: Record) -> None:
    """Writes the record of a fine-tuned model."""
    write_json(folder / RECORD, record)
