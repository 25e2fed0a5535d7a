"""`vocabulary.json`: how the vocabulary of a model was changed, and what that costs on held-out text.

The commands `vocabulary trim` and `vocabulary extend` write it into the directory of the model; `release` and the card
read it. Intervals of the figures are in the result rows in `results/` (see `core.results`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from typing_extensions import NotRequired, TypedDict

from llm_jp_modernbert.core.files import read_json, write_json

RECORD = "vocabulary.json"
"""File name of the record, in the directory of a model whose vocabulary was changed."""

TASK = "vocabulary"
"""Name of the task in the result rows."""

Change = Literal["trim", "extend"]


class Texts(TypedDict):
    """Texts that were read.

    Attributes:
        name: file names joined by `+`, or the repository.
        revision: `sha256:…` of the files, or the revision of the repository.
        documents: number of documents.
        characters: number of characters.
    """

    name: str
    revision: str
    documents: int
    characters: int


class Figures(TypedDict):
    """Size of a model, and its quality on the held-out text.

    Attributes:
        tokens: number of tokens in the vocabulary.
        parameters: parameters of the model, its head included.
        weights_bytes: size of the weights file.
        tokenizer_bytes: size of tokenizer.json.
        tokens_per_character: tokens of the held-out text divided by its characters.
        characters_per_token: the inverse.
        round_trips: share of the held-out documents that decoding restores exactly, from 0 to 1.
        masked_accuracy: share of masked tokens that are predicted correctly, from 0 to 1; None without a vocabulary
            head.
        span_accuracy: share of masked spans whose tokens are all predicted correctly; None as above. Both vocabularies
            have the same spans of text, so this value and the next compare the models.
        loss_per_character: cross-entropy of the masked spans in nats, divided by their characters; None as above.
    """

    tokens: int
    parameters: int
    weights_bytes: int
    tokenizer_bytes: int
    tokens_per_character: float
    characters_per_token: float
    round_trips: float
    masked_accuracy: float | None
    span_accuracy: float | None
    loss_per_character: float | None


class Record(TypedDict):
    """Content of `vocabulary.json`.

    Attributes:
        schema: version of this layout, 1.
        change: `trim` or `extend`.
        base: repository or directory name of the model before, without local parents.
        base_revision: its commit, or `sha256:…` of its weights.
        texts: texts in which tokens were counted or terms were found.
        held_out: texts that the figures were measured on.
        min_count: tokens with fewer uses were removed; 0 if not a limit.
        removed: number of tokens removed.
        terms: the new tokens as text, in the order of their ids.
        before: figures of the model before.
        after: figures of this model.
        changes: 95 % interval of the change of each metric on the held-out text, bootstrapped over documents: of the
            difference for shares, of the relative change for other metrics.
        masked_share: share of the spans of the held-out text that were masked.
        seed: seed of the held-out share and of the masks.
        seconds: duration.
        versions: versions of the libraries.
    """

    schema: int
    change: Change
    base: str
    base_revision: str
    texts: Texts
    held_out: Texts
    min_count: int
    removed: int
    terms: list[str]
    before: Figures
    after: Figures
    changes: NotRequired[dict[str, tuple[float | None, float | None]]]
    masked_share: float
    seed: int
    seconds: float
    versions: dict[str, str]


def read_record(folder: Path) -> Record | None:
    """The record of a model, or None if its vocabulary was not changed.

    Raises:
        UsageError: the file is not valid.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    record: Record = read_json(path, Record)
    return record


def write_record(folder: Path, record: Record) -> None:
    """Writes the record of a model."""
    write_json(folder / RECORD, record)
