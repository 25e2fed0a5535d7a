"""The data of a retrieval training: examples by part, in one of five forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Form = Literal["pairs", "triplets", "scored", "distillation", "texts"]
"""Forms of training data.

* `pairs`: a query and a relevant passage;
* `triplets`: the same with passages that are not relevant, the same number in each example;
* `scored`: two texts and a score;
* `distillation`: a query and passages, each with a teacher's score;
* `texts`: texts alone (SimCSE, arXiv 2104.08821).
"""


@dataclass(frozen=True)
class Example:
    """A training example.

    Attributes:
        query: the query or the first text; the text itself in the form `texts`.
        passages: the relevant passage first, then those that are not relevant; the second text of a scored pair;
            empty in the form `texts`.
        scores: the score of a scored pair from 0 to 1, or a teacher's score of each passage; else empty.
    """

    query: str
    passages: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Part:
    """Examples and their origin.

    Attributes:
        name: name of the dataset: a repository, or the file names joined by `+`.
        revision: commit of the repository, or `sha256:…` of the files.
        form: form of the examples. Validation and test may have another form than the training examples.
        examples: the examples.
        places: file and row of each example, for messages.
    """

    name: str
    revision: str
    form: Form
    examples: Sequence[Example]
    places: Sequence[str]


@dataclass(frozen=True)
class RetrievalData:
    """All data of a training.

    Attributes:
        train: training examples.
        validation: examples that select the epoch. Texts of `train` are not among them.
        tests: datasets of the final measurement.
        corpus: further passages to search among.
        corpus_revision: their revision, as that of a part; empty without them.
        columns: role → column of the training data.
        remarks: lines for the user, for example about rows that are skipped.
    """

    train: Part
    validation: Part
    tests: Sequence[Part] = ()
    corpus: Sequence[str] = ()
    corpus_revision: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
