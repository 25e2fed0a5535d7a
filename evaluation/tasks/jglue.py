"""JGLUE (Kurihara et al. 2022) and JCoLA (Someya et al. 2024): tasks on one text, a pair, or a question with choices.

JSTS is regression on the grade of similarity, 0 to 5; the others choose one label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from ..data.labelled import JGLUE, Source, read_split
from .finetuning import FineTuning, Row, Splits, majority_share, splits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The paper's mean over tasks.
_PAPER_MEAN = ("jsts", "jnli", "jcola")


@dataclass(frozen=True)
class Example:
    """What is to be judged.

    Attributes:
        texts: one text, two that make a pair, or a question with its choices.
        label: a label's index, or a grade.
    """

    texts: tuple[str, ...]
    label: float


@dataclass(frozen=True)
class Jglue(FineTuning):
    """One task of JGLUE; its subclasses say where it lies and what its rows are."""

    head: ClassVar[str] = "AutoModelForSequenceClassification"
    metric: ClassVar[str] = "accuracy"

    config: ClassVar[str]
    """Its name on the Hub."""

    files: ClassVar[str]
    """Its files in the official layout; `{split}` is `train` or `valid`."""

    text_keys: ClassVar[tuple[str, ...]]

    publisher: ClassVar[str] = "github.com/yahoojapan/JGLUE"

    labels: ClassVar[tuple[str, ...]] = ()
    """What its files call the labels; none for a grade."""

    def load(self) -> Splits:
        """Both public splits, from the Hub, the data folder, or the user's files to train on."""
        validation, train = (
            read_split(
                Source(
                    name=self.config,
                    repository=JGLUE,
                    config=self.config,
                    pattern=self.files.format(split=split),
                    wanted=f"{self.config} ({self.publisher}), or name files to train on by --train-file",
                ),
                split_name,
                self.options,
            )
            for split, split_name in (("valid", "validation"), ("train", "train"))
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
            KeyError: a key is missing.
            ValueError: a value is not what it ought to be.
        """
        texts = tuple(row[key] for key in self.text_keys)
        for key, text in zip(self.text_keys, texts, strict=True):
            if not isinstance(text, str):
                raise ValueError(f"{key} is no text")
        return texts, self.label(row["label"])

    def label(self, found: Any) -> float:
        """The index of a label that a file gives by its name or its index.

        Raises:
            ValueError: there is no such label.
        """
        if isinstance(found, str) and found in self.labels:
            return self.labels.index(found)
        if isinstance(found, int) and 0 <= found < len(self.labels):
            return found
        raise ValueError(f"label {found!r} is none of {', '.join(self.labels)}")

    def head_settings(self, data: Splits) -> dict[str, Any]:
        """The labels by their names."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
        }

    def rows(
        self, tokenizer: PreTrainedTokenizerBase, data: Splits, examples: Sequence[Any], length: int
    ) -> list[Row]:
        """One input for each example; what is longer is cut at the end of its longest text."""
        sides = [[example.texts[side] for example in examples] for side in range(len(self.text_keys))]
        encoded = tokenizer(*sides, truncation=True, max_length=length)
        return [
            Row({**{key: encoded[key][place] for key in encoded}, "labels": example.label}, place)
            for place, example in enumerate(examples)
        ]

    def predictions(self, rows: Sequence[Row], logits: Any, data: Splits, examples: Sequence[Any]) -> list[Any]:
        """A label for each example."""
        return [self.labels[index] for index in _in_order(rows, logits.argmax(-1))]

    def gold(self, example: Any) -> Any:
        """Its label by name."""
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
    averaged_with: ClassVar[tuple[str, ...]] = _PAPER_MEAN
    metric: ClassVar[str] = "pearson"
    config: ClassVar[str] = "JSTS"
    files: ClassVar[str] = "jsts-v1.*/{split}-v1.*.json"
    text_keys: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")

    def label(self, found: Any) -> float:
        """The grade."""
        if isinstance(found, (int, float)) and 0 <= found <= 5:
            return float(found)
        raise ValueError(f"label {found!r} is no grade from 0 to 5")

    def head_settings(self, data: Splits) -> dict[str, Any]:
        """Regression by the squared error."""
        return {"num_labels": 1, "problem_type": "regression"}

    def predictions(self, rows: Sequence[Row], logits: Any, data: Splits, examples: Sequence[Any]) -> list[Any]:
        """A grade for each example."""
        return [float(grade) for grade in _in_order(rows, logits.reshape(-1))]

    def gold(self, example: Any) -> Any:
        """Its grade."""
        return example.label

    def scores(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float | None]:
        """Correlations of Pearson and Spearman; undefined where all predictions are one."""
        from scipy.stats import pearsonr, spearmanr

        gold = [example.label for example in examples]
        if len(set(gold)) < 2 or len(set(predictions)) < 2:
            return {"pearson": None, "spearman": None}
        return {
            "pearson": pearsonr(gold, list(predictions)).statistic,
            "spearman": spearmanr(gold, list(predictions)).statistic,
        }

    def baselines(self, examples: Sequence[Any]) -> dict[str, float]:
        """None: a constant guess has no correlation."""
        return {}


@dataclass(frozen=True)
class Jnli(Jglue):
    """Whether one caption follows from another."""

    name: ClassVar[str] = "jnli"
    averaged_with: ClassVar[tuple[str, ...]] = _PAPER_MEAN
    config: ClassVar[str] = "JNLI"
    files: ClassVar[str] = "jnli-v1.*/{split}-v1.*.json"
    text_keys: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")
    labels: ClassVar[tuple[str, ...]] = ("entailment", "contradiction", "neutral")

    def parse(self, row: dict[str, Any]) -> tuple[tuple[str, ...], float]:
        """As of JNLI, or of JNLI-Neg, which holds its sentences in objects and calls its labels `gold_label`."""
        if "gold_label" in row:
            row = {"label": row["gold_label"], **{key: row[key]["sentence"] for key in self.text_keys}}
        return super().parse(row)


@dataclass(frozen=True)
class Jcola(Jglue):
    """Whether a sentence is acceptable Japanese; most are, so Matthews' correlation stands beside the accuracy."""

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
        """Of the most frequent label."""
        return {**super().baselines(examples), "mcc": 0.0}


@dataclass(frozen=True)
class Marc(Jglue):
    """Whether a review is positive; its data are withdrawn, so they are the user's."""

    name: ClassVar[str] = "marc-ja"
    config: ClassVar[str] = "MARC-ja"
    files: ClassVar[str] = "marc_ja-v1.*/{split}-v1.*.json"
    text_keys: ClassVar[tuple[str, ...]] = ("sentence",)
    labels: ClassVar[tuple[str, ...]] = ("positive", "negative")


@dataclass(frozen=True)
class JcommonsenseQA(Jglue):
    """Which of five choices answers a question."""

    name: ClassVar[str] = "jcommonsenseqa"
    head: ClassVar[str] = "AutoModelForMultipleChoice"
    config: ClassVar[str] = "JCommonsenseQA"
    files: ClassVar[str] = "jcommonsenseqa-v1.*/{split}-v1.*.json"
    text_keys: ClassVar[tuple[str, ...]] = ("question", "choice0", "choice1", "choice2", "choice3", "choice4")
    labels: ClassVar[tuple[str, ...]] = ("choice0", "choice1", "choice2", "choice3", "choice4")

    def head_settings(self, data: Splits) -> dict[str, Any]:
        """The head gives one figure to each choice."""
        return {}

    def rows(
        self, tokenizer: PreTrainedTokenizerBase, data: Splits, examples: Sequence[Any], length: int
    ) -> list[Row]:
        """One input of five pairs of the question and a choice for each example."""
        found = []
        for place, example in enumerate(examples):
            question, *choices = example.texts
            encoded = tokenizer([question] * len(choices), choices, truncation=True, max_length=length)
            found.append(Row({**{key: encoded[key] for key in encoded}, "labels": example.label}, place))
        return found

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Makes a batch of examples with their choices."""
        from transformers import DataCollatorForMultipleChoice

        return DataCollatorForMultipleChoice(tokenizer)


def _in_order(rows: Sequence[Row], values: np.ndarray) -> list[Any]:
    """Values of rows by the place of their examples."""
    return [value for _, value in sorted(zip((row.example for row in rows), values.tolist(), strict=True))]
