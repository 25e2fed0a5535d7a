"""JGLUE (Kurihara et al. 2022) and JCoLA (Someya et al. 2024): tasks on a text, a pair, or a question with choices.

JSTS predicts a similarity grade from 0 to 5; the other tasks predict a label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from ..data.labelled import JGLUE, Source, read_split
from .finetuning import FineTuning, Row, Splits, label_settings, majority_share, splits
from .task import Highlight

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PAPER_MEAN = ("jsts", "jnli", "jcola")
"""Tasks of the paper's mean."""


@dataclass(frozen=True)
class Example:
    """Texts and their label.

    Attributes:
        texts: one text, a pair, or a question with its choices.
        label: index of the label, or a grade.
    """

    texts: tuple[str, ...]
    label: float


@dataclass(frozen=True)
class Jglue(FineTuning):
    """Base of the tasks: a subclass names its files, columns and labels."""

    hub_task: ClassVar[str] = "text-classification"
    head: ClassVar[str] = "AutoModelForSequenceClassification"
    metric: ClassVar[str] = "accuracy"

    config: ClassVar[str]
    """Configuration in the Hub dataset."""

    files: ClassVar[str]
    """Pattern of the official files; `{split}` is `train` or `valid`."""

    text_keys: ClassVar[tuple[str, ...]]
    """Columns of the texts."""

    publisher: ClassVar[str] = "github.com/yahoojapan/JGLUE"

    labels: ClassVar[tuple[str, ...]] = ()
    """Label names in the files; empty for grades."""

    def load(self) -> Splits:
        """Both public splits, from the Hub, the data folder, or the user's training files."""
        validation, train = (
            read_split(
                Source(
                    name=self.config,
                    repository=JGLUE,
                    config=self.config,
                    pattern=self.files.format(split=file_split),
                    wanted=f"{self.config} ({self.publisher}), or set --train-file",
                ),
                split,
                self.options,
            )
            for file_split, split in (("valid", "validation"), ("train", "train"))
        )
        return splits(self, validation, train, self._example, lambda example: "\t".join(example.texts))

    def _example(self, place: str, row: dict[str, Any]) -> Example:
        try:
            return Example(*self.parse(row))
        except (KeyError, TypeError) as error:
            raise UsageError(f"{place}: not in the layout of {self.config} ({error}).") from None
        except ValueError as error:
            raise UsageError(f"{place}: {error}.") from None

    def parse(self, row: dict[str, Any]) -> tuple[tuple[str, ...], float]:
        """Texts and label of a row.

        Raises:
            KeyError: a column is missing.
            ValueError: a value is invalid.
        """
        texts = tuple(row[key] for key in self.text_keys)
        for key, text in zip(self.text_keys, texts, strict=True):
            if not isinstance(text, str):
                raise ValueError(f"{key} is not a text")
        return texts, self.label(row["label"])

    def label(self, value: Any) -> float:
        """Index of a label given by name or index.

        Raises:
            ValueError: unknown label.
        """
        if isinstance(value, str) and value in self.labels:
            return self.labels.index(value)
        if isinstance(value, int) and 0 <= value < len(self.labels):
            return value
        raise ValueError(f"label {value!r} is not one of {', '.join(self.labels)}")

    def head_settings(self, data: Splits) -> dict[str, Any]:
        """The label names."""
        return label_settings(self.labels)

    def rows(
        self, tokenizer: PreTrainedTokenizerBase, data: Splits, examples: Sequence[Any], length: int
    ) -> list[Row]:
        """One input per example; the longest text of an input is truncated."""
        columns = [[example.texts[side] for example in examples] for side in range(len(self.text_keys))]
        encoded = tokenizer(*columns, truncation=True, max_length=length)
        return [
            Row({**{key: encoded[key][place] for key in encoded}, "labels": example.label}, place)
            for place, example in enumerate(examples)
        ]

    def predictions(self, rows: Sequence[Row], logits: Any, data: Splits, examples: Sequence[Any]) -> list[Any]:
        """A label name per example."""
        return [self.labels[index] for index in _by_example(rows, logits.argmax(-1))]

    def gold(self, example: Any) -> Any:
        """The label name."""
        return self.labels[example.label]

    def scores(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float | None]:
        """Accuracy."""
        from sklearn.metrics import accuracy_score

        return {"accuracy": accuracy_score([self.gold(example) for example in examples], list(predictions))}

    def baselines(self, examples: Sequence[Any]) -> dict[str, float]:
        """Accuracy of the most frequent label."""
        return {"accuracy": majority_share([example.label for example in examples])}


@dataclass(frozen=True)
class Jsts(Jglue):
    """Semantic similarity of two captions, as a grade from 0 to 5."""

    name: ClassVar[str] = "jsts"
    hub_task: ClassVar[str] = "sentence-similarity"
    highlights: ClassVar[tuple[Highlight, ...]] = (
        Highlight("spearman", "JSTS Spearman"),
        Highlight("pearson", "JSTS Pearson, paper protocol", "paper"),
    )
    averaged_with: ClassVar[tuple[str, ...]] = _PAPER_MEAN
    metric: ClassVar[str] = "pearson"
    config: ClassVar[str] = "JSTS"
    files: ClassVar[str] = "jsts-v1.*/{split}-v1.*.json"
    text_keys: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")

    def label(self, value: Any) -> float:
        """The grade."""
        if isinstance(value, (int, float)) and 0 <= value <= 5:
            return float(value)
        raise ValueError(f"label {value!r} is not a grade from 0 to 5")

    def head_settings(self, data: Splits) -> dict[str, Any]:
        """Regression with the squared error."""
        return {"num_labels": 1, "problem_type": "regression"}

    def predictions(self, rows: Sequence[Row], logits: Any, data: Splits, examples: Sequence[Any]) -> list[Any]:
        """A grade per example."""
        return [float(grade) for grade in _by_example(rows, logits.reshape(-1))]

    def gold(self, example: Any) -> Any:
        """The grade."""
        return example.label

    def scores(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float | None]:
        """Pearson's and Spearman's correlation; undefined if all predictions are equal."""
        from scipy.stats import pearsonr, spearmanr

        gold = [example.label for example in examples]
        if len(set(gold)) < 2 or len(set(predictions)) < 2:
            return {"pearson": None, "spearman": None}
        return {
            "pearson": pearsonr(gold, list(predictions)).statistic,
            "spearman": spearmanr(gold, list(predictions)).statistic,
        }

    def baselines(self, examples: Sequence[Any]) -> dict[str, float]:
        """None: the correlation of a constant guess is undefined."""
        return {}


@dataclass(frozen=True)
class Jnli(Jglue):
    """Whether one caption entails another."""

    name: ClassVar[str] = "jnli"
    averaged_with: ClassVar[tuple[str, ...]] = _PAPER_MEAN
    config: ClassVar[str] = "JNLI"
    files: ClassVar[str] = "jnli-v1.*/{split}-v1.*.json"
    text_keys: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")
    labels: ClassVar[tuple[str, ...]] = ("entailment", "contradiction", "neutral")

    def parse(self, row: dict[str, Any]) -> tuple[tuple[str, ...], float]:
        """Rows of JNLI, and of JNLI-Neg, which nests its sentences in objects and names its label `gold_label`."""
        if "gold_label" in row:
            row = {"label": row["gold_label"], **{key: row[key]["sentence"] for key in self.text_keys}}
        return super().parse(row)


@dataclass(frozen=True)
class Jcola(Jglue):
    """Whether a sentence is acceptable Japanese; most are, so Matthews' correlation is reported as well."""

    name: ClassVar[str] = "jcola"
    averaged_with: ClassVar[tuple[str, ...]] = _PAPER_MEAN
    config: ClassVar[str] = "JCoLA"
    files: ClassVar[str] = "in_domain_{split}-v1.*.json"
    publisher: ClassVar[str] = "github.com/osekilab/JCoLA"
    text_keys: ClassVar[tuple[str, ...]] = ("sentence",)
    labels: ClassVar[tuple[str, ...]] = ("unacceptable", "acceptable")

    def scores(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float | None]:
        """Accuracy and Matthews' correlation coefficient."""
        from sklearn.metrics import matthews_corrcoef

        gold = [self.gold(example) for example in examples]
        return {**super().scores(examples, predictions), "mcc": matthews_corrcoef(gold, list(predictions))}

    def baselines(self, examples: Sequence[Any]) -> dict[str, float]:
        """Scores of the most frequent label."""
        return {**super().baselines(examples), "mcc": 0.0}


@dataclass(frozen=True)
class Marc(Jglue):
    """Whether a review is positive; the data are withdrawn, so users must have their own copy."""

    name: ClassVar[str] = "marc-ja"
    config: ClassVar[str] = "MARC-ja"
    files: ClassVar[str] = "marc_ja-v1.*/{split}-v1.*.json"
    text_keys: ClassVar[tuple[str, ...]] = ("sentence",)
    labels: ClassVar[tuple[str, ...]] = ("positive", "negative")


@dataclass(frozen=True)
class JcommonsenseQA(Jglue):
    """Which of five choices answers a question."""

    name: ClassVar[str] = "jcommonsenseqa"
    hub_task: ClassVar[str] = "multiple-choice"
    head: ClassVar[str] = "AutoModelForMultipleChoice"
    config: ClassVar[str] = "JCommonsenseQA"
    files: ClassVar[str] = "jcommonsenseqa-v1.*/{split}-v1.*.json"
    text_keys: ClassVar[tuple[str, ...]] = ("question", "choice0", "choice1", "choice2", "choice3", "choice4")
    labels: ClassVar[tuple[str, ...]] = ("choice0", "choice1", "choice2", "choice3", "choice4")

    def head_settings(self, data: Splits) -> dict[str, Any]:
        """None: the head scores each choice."""
        return {}

    def rows(
        self, tokenizer: PreTrainedTokenizerBase, data: Splits, examples: Sequence[Any], length: int
    ) -> list[Row]:
        """One input of five question-choice pairs per example."""
        rows = []
        for place, example in enumerate(examples):
            question, *choices = example.texts
            encoded = tokenizer([question] * len(choices), choices, truncation=True, max_length=length)
            rows.append(Row({**encoded, "labels": example.label}, place))
        return rows

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Collates examples with their choices."""
        from transformers import DataCollatorForMultipleChoice

        return DataCollatorForMultipleChoice(tokenizer)


def _by_example(rows: Sequence[Row], values: np.ndarray) -> list[Any]:
    """Values of rows in the order of their examples."""
    return [value for _, value in sorted(zip((row.example for row in rows), values.tolist(), strict=True))]
