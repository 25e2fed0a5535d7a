"""JGLUE (Kurihara et al. 2022) and JCoLA (Someya et al. 2024): tasks on a text, a pair, or a question with choices.

JSTS predicts a similarity grade from 0 to 5; the other tasks predict a label.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.text_files import json_lines
from llm_jp_modernbert.training.finetuning.head_task import HeadTask
from llm_jp_modernbert.training.finetuning.multiple_choice import MultipleChoice
from llm_jp_modernbert.training.finetuning.text import Classification, Regression, Texts

from ..data.labelled import read_split
from .finetuning import FineTuning, Splits, hold_out
from .task import Highlight

_PAPER_MEAN = ("jsts", "jnli", "jcola")
"""Tasks of the paper's mean."""


@dataclass(frozen=True)
class PublicSplits(FineTuning):
    """Base of the tasks with a public training and validation split; the test split is not public."""

    config: ClassVar[str]
    """Name of the dataset, and of its configuration on the Hub."""

    files: ClassVar[str]
    """Pattern of the official files; `{split}` is `train` or `valid`."""

    publisher: ClassVar[str] = "github.com/yahoojapan/JGLUE"

    labels: ClassVar[tuple[str, ...]] = ()
    """Label names; empty for grades and spans."""

    @abstractmethod
    def head_task(self) -> HeadTask[Any]:
        """How the examples are learned and scored."""

    @abstractmethod
    def parse(self, row: dict[str, Any]) -> Any:
        """Makes an example of a row.

        Raises:
            KeyError, TypeError: another layout.
            ValueError: a value is invalid.
        """

    @abstractmethod
    def group(self, example: Any) -> str:
        """A text; training examples with equal texts are held out together."""

    def read(self, path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
        """Rows of an official file, each with its file and line."""
        return json_lines(path)

    def load(self) -> Splits:
        """Both splits, from the Hub, the data folder, or the user's training files; some training is held out."""
        parts: list[list[Any]] = []
        revisions = []
        for file_split, split in (("valid", "validation"), ("train", "train")):
            pattern = self.files.format(split=file_split)
            rows, revision = read_split(self.config, split, pattern, self.publisher, self.options, self.read)
            revisions.append(revision)
            parts.append([])
            for place, row in rows:
                try:
                    parts[-1].append(self.parse(row))
                except (KeyError, TypeError) as error:
                    raise UsageError(f"{place}: not in the layout of {self.config} ({error}).") from None
                except ValueError as error:
                    raise UsageError(f"{place}: {error}.") from None
        train, dev = hold_out(parts[1], self.held_out, self.group)
        if not train or (self.held_out and not dev):
            raise UsageError(f"{self.config}: {len(parts[1])} training examples are too few to train and select on.")
        limit = self.options.limit
        return Splits(
            self.config,
            "+".join(revisions),
            "validation",
            parts[0][:limit],
            train_files=tuple(path.name for path in self.options.train_files),
            train=train[:limit],
            dev=dev[:limit],
            head_task=self.head_task(),
        )


@dataclass(frozen=True)
class LabelledTexts(PublicSplits):
    """Base of the tasks that predict a label: a subclass names its files, columns and labels."""

    hub_task = "text-classification"
    metric = "accuracy"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    majority_baseline = True

    text_keys: ClassVar[tuple[str, ...]]
    """Columns of the texts."""

    def head_task(self) -> HeadTask[Any]:
        return Classification(self.labels)

    def parse(self, row: dict[str, Any]) -> Texts:
        """Checks texts and label."""
        texts = tuple(row[key] for key in self.text_keys)
        for key, text in zip(self.text_keys, texts, strict=True):
            if not isinstance(text, str):
                raise ValueError(f"{key} is not a text")
        return Texts(texts, self.label(row["label"]))

    def label(self, value: Any) -> str | float:
        """Name of a label given by name or index.

        Raises:
            ValueError: unknown label.
        """
        if isinstance(value, int) and 0 <= value < len(self.labels):
            return self.labels[value]
        if not isinstance(value, str) or value not in self.labels:
            raise ValueError(f"label {value!r} is not one of {', '.join(self.labels)}")
        return value

    def group(self, example: Any) -> str:
        return "\t".join(example.texts)


@dataclass(frozen=True)
class Jsts(LabelledTexts):
    """Semantic similarity of two captions, as a grade from 0 to 5."""

    name = "jsts"
    hub_task = "sentence-similarity"
    highlights = (
        Highlight("spearman", "JSTS Spearman"),
        Highlight("pearson", "JSTS Pearson, paper protocol", "paper"),
    )
    averaged_with = _PAPER_MEAN
    metric = "pearson"
    metrics = ("pearson", "spearman")
    majority_baseline = False
    config = "JSTS"
    files = "jsts-v1.*/{split}-v1.*.json"
    text_keys = ("sentence1", "sentence2")

    def label(self, value: Any) -> float:
        if isinstance(value, (int, float)) and 0 <= value <= 5:
            return float(value)
        raise ValueError(f"label {value!r} is not a grade from 0 to 5")

    def head_task(self) -> HeadTask[Any]:
        return Regression()


@dataclass(frozen=True)
class Jnli(LabelledTexts):
    """Whether one caption entails another."""

    name = "jnli"
    averaged_with = _PAPER_MEAN
    config = "JNLI"
    files = "jnli-v1.*/{split}-v1.*.json"
    text_keys = ("sentence1", "sentence2")
    labels = ("entailment", "contradiction", "neutral")

    def parse(self, row: dict[str, Any]) -> Texts:
        """Rows of JNLI, and of JNLI-Neg, which nests its sentences in objects and names its label `gold_label`."""
        if "gold_label" in row:
            row = {"label": row["gold_label"], **{key: row[key]["sentence"] for key in self.text_keys}}
        return super().parse(row)


@dataclass(frozen=True)
class Jcola(LabelledTexts):
    """Whether a sentence is acceptable Japanese; most are, so Matthews' correlation is reported as well."""

    name = "jcola"
    averaged_with = _PAPER_MEAN
    config = "JCoLA"
    files = "in_domain_{split}-v1.*.json"
    publisher = "github.com/osekilab/JCoLA"
    metrics = ("accuracy", "mcc")
    text_keys = ("sentence",)
    labels = ("unacceptable", "acceptable")


@dataclass(frozen=True)
class Marc(LabelledTexts):
    """Whether a review is positive; the data are withdrawn, so users must have their own copy."""

    name = "marc-ja"
    config = "MARC-ja"
    files = "marc_ja-v1.*/{split}-v1.*.json"
    text_keys = ("sentence",)
    labels = ("positive", "negative")


@dataclass(frozen=True)
class JcommonsenseQA(LabelledTexts):
    """Which of five choices answers a question."""

    name = "jcommonsenseqa"
    hub_task = "multiple-choice"
    config = "JCommonsenseQA"
    files = "jcommonsenseqa-v1.*/{split}-v1.*.json"
    labels = ("choice0", "choice1", "choice2", "choice3", "choice4")
    text_keys = ("question", *labels)

    def head_task(self) -> HeadTask[Any]:
        return MultipleChoice(self.labels)
