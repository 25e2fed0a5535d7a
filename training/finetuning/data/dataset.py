"""The data of a fine-tuning: examples by part, and the type of task that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..head_task import HeadTask

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(frozen=True)
class Examples:
    """One part of the data.

    Attributes:
        name: name of the dataset: a repository, or the file names joined by `+`.
        revision: commit of the repository, or `sha256:…` of the files.
        examples: the examples, of the type that the task expects.
        places: file and row of each example, for messages, for example `train.csv, row 12`.
    """

    name: str
    revision: str
    examples: Sequence[Any] = field(repr=False)
    places: Sequence[str] = field(repr=False)


@dataclass(frozen=True)
class Dataset:
    """Checked data.

    Attributes:
        task: how the examples are learned and scored, with the labels of the training part.
        parts: `train`, `validation` and, if given, `test`.
        columns: role → column of the user's data, for example `{"text": "sentence", "label": "label"}`.
        multi_label: whether texts can have several labels.
        remarks: lines for the user, for example about skipped empty rows.
    """

    task: HeadTask[Any]
    parts: dict[str, Examples]
    columns: dict[str, str]
    multi_label: bool = False
    remarks: tuple[str, ...] = ()
