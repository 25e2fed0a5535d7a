"""`adaptation.json`: the texts of a model that was adapted to a domain, and its measurements before and after.

The command `adapt` writes it into the model's directory; `release` and the model card read it. The training itself is
the last stage of `training.json`, see `summary`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

from llm_jp_modernbert.core.files import read_json, write_json

RECORD = "adaptation.json"
"""File name of the record, in the directory of an adapted model."""


class Texts(TypedDict):
    """Texts that the model was trained on.

    Attributes:
        name: names of the files, directories or repositories, joined by `+`.
        revision: `sha256:…` of the files.
        share: share of the training text, from 0 to 1.
    """

    name: str
    revision: str
    share: float


class Estimate(TypedDict):
    """A value and its 95 % confidence interval, by bootstrap over documents; None for a single document."""

    value: float
    low: float | None
    high: float | None


class Change(TypedDict):
    """A metric of the base and of the adapted model on the same documents.

    Attributes:
        before: value of the base.
        after: value of the adapted model.
        change: after ÷ before for `pseudo_perplexity`, after - before for `masked_accuracy`.
    """

    before: Estimate
    after: Estimate
    change: Estimate


class Measured(TypedDict):
    """Measurements on held-out texts.

    Attributes:
        name: name of the texts, as in `Texts`.
        revision: `sha256:…` of the documents that were measured.
        held_out_of: `train` or `replay` for a part that was held out of these texts; `file` for texts of their own.
        documents: number of documents.
        metrics: `pseudo_perplexity` and `masked_accuracy` (a share from 0 to 1).
    """

    name: str
    revision: str
    held_out_of: Literal["train", "replay", "file"]
    documents: int
    metrics: dict[str, Change]


class Record(TypedDict):
    """Content of `adaptation.json`.

    Attributes:
        schema: version of this layout, 1.
        base: repository or directory name of the base model, without local parents.
        base_revision: its commit, or `sha256:…` of its weights.
        train: texts of the domain.
        replay: general text mixed into the training; None without any.
        domain: measurements on texts of the domain.
        general: measurements on general text; None if forgetting was not measured.
        epochs: passes over the texts of the domain.
        learning_rate: peak of the learning rate.
        base_learning_rate: peak in the pre-training of the base; None if unknown.
        mlm_probability: share of tokens masked in training.
        sequence_length: tokens of a row in training.
        window: maximum tokens of context in the measurements.
        positions: tokens of a document that are masked one at a time for its pseudo-perplexity.
        masked_share: share of the tokens masked together for the masked accuracy.
        seed: random seed.
        seconds: duration of the training.
        device: processes and hardware, as in the log.
        versions: versions of the libraries.
    """

    schema: int
    base: str
    base_revision: str
    train: Texts
    replay: Texts | None
    domain: Measured
    general: Measured | None
    epochs: float
    learning_rate: float
    base_learning_rate: float | None
    mlm_probability: float
    sequence_length: int
    window: int
    positions: int
    masked_share: float
    seed: int
    seconds: float
    device: str
    versions: dict[str, str]


def read_record(folder: Path) -> Record | None:
    """The record of an adapted model, or None if the directory holds none.

    Raises:
        UsageError: the file is not valid.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    record: Record = read_json(path, Record)
    return record


def write_record(folder: Path, record: Record) -> None:
    """Writes the record of an adapted model."""
    write_json(folder / RECORD, record)
