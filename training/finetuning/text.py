"""Classification and regression of a text or of a pair of texts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.inference.heads import SEQUENCE_CLASSIFICATION

from .head_task import HeadTask, ModelInput, Prediction, by_example, most_probable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Texts:
    """Texts and their label.

    Attributes:
        texts: one text, a pair, or a question with its choices.
        label: name of the label, a score, or the names of several labels.
    """

    texts: tuple[str, ...]
    label: str | float | tuple[str, ...]


@dataclass(frozen=True)
class TextTask(HeadTask[Texts]):
    """Base of the tasks with one input per text or pair."""

    head = SEQUENCE_CLASSIFICATION

    @abstractmethod
    def target(self, example: Texts) -> Any:
        """The label in the form that the loss expects."""

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Texts], length: int) -> list[ModelInput]:
        """One input per example; the longer text of a pair is truncated first."""
        encoded = encode_texts(tokenizer, [example.texts for example in examples], length)
        return [
            ModelInput({**inputs, "labels": self.target(example)}, place, tokens)
            for place, (example, (inputs, tokens)) in enumerate(zip(examples, encoded, strict=True))
        ]

    def gold(self, example: Texts) -> Any:
        return list(example.label) if isinstance(example.label, tuple) else example.label


@dataclass(frozen=True)
class Classification(TextTask):
    """One label per text or pair."""

    metric = "macro_f1"

    def head_settings(self) -> dict[str, Any]:
        return {**super().head_settings(), "problem_type": "single_label_classification"}

    def target(self, example: Texts) -> int:
        return self.labels.index(str(example.label))

    def predict(
        self, inputs: Sequence[ModelInput], logits: Sequence[np.ndarray], examples: Sequence[Texts]
    ) -> list[Prediction]:
        """The most probable label."""
        return most_probable(self.labels, by_example(inputs, logits))

    def scores(self, examples: Sequence[Texts], predictions: Sequence[Any]) -> dict[str, float | None]:
        """Accuracy, F1 averaged over the labels, and Matthews' correlation coefficient."""
        from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

        gold, predicted = [example.label for example in examples], list(predictions)
        return {
            "accuracy": float(accuracy_score(gold, predicted)),
            "macro_f1": float(f1_score(gold, predicted, average="macro", labels=self.labels, zero_division=0)),
            "mcc": float(matthews_corrcoef(gold, predicted)),
        }

    def error(self, example: Texts, prediction: Prediction) -> float:
        return prediction.confidence if prediction.value != example.label else 0.0


@dataclass(frozen=True)
class MultiLabelClassification(TextTask):
    """Any number of labels per text or pair.

    Attributes:
        thresholds: probability from which each label is assigned; empty for 0.5.
    """

    thresholds: tuple[float, ...] = ()

    metric = "macro_f1"

    def head_settings(self) -> dict[str, Any]:
        return {**super().head_settings(), "problem_type": "multi_label_classification"}

    def target(self, example: Texts) -> list[float]:
        assert isinstance(example.label, tuple)
        return [float(label in example.label) for label in self.labels]

    def probabilities(self, inputs: Sequence[ModelInput], logits: Sequence[np.ndarray]) -> np.ndarray:
        """`(examples, labels)` probabilities."""
        values: np.ndarray = 1 / (1 + np.exp(-by_example(inputs, logits).astype(np.float64)))
        return values

    def predict(
        self, inputs: Sequence[ModelInput], logits: Sequence[np.ndarray], examples: Sequence[Texts]
    ) -> list[Prediction]:
        """The labels whose probability reaches their threshold; labels count as independent in the confidence."""
        probabilities = self.probabilities(inputs, logits)
        assigned = probabilities >= np.array(self.thresholds or 0.5)
        confidence = np.where(assigned, probabilities, 1 - probabilities).prod(-1)
        return [
            Prediction(
                [label for label, is_assigned in zip(self.labels, row, strict=True) if is_assigned], float(sure)
            )
            for row, sure in zip(assigned, confidence, strict=True)
        ]

    def tuned(
        self, inputs: Sequence[ModelInput], logits: Sequence[np.ndarray], examples: Sequence[Texts]
    ) -> MultiLabelClassification:
        """The task with the thresholds of the best F1 of each label."""
        gold = np.array([self.target(example) for example in examples])
        return replace(self, thresholds=tuned_thresholds(self.probabilities(inputs, logits), gold))

    def scores(self, examples: Sequence[Texts], predictions: Sequence[Any]) -> dict[str, float | None]:
        """F1 averaged over the labels, F1 over all decisions, and the share of completely correct sets."""
        from sklearn.metrics import f1_score

        gold = np.array([self.target(example) for example in examples])
        predicted = np.array([[float(label in labels) for label in self.labels] for labels in predictions])
        return {
            "macro_f1": float(f1_score(gold, predicted, average="macro", zero_division=0)),
            "micro_f1": float(f1_score(gold, predicted, average="micro", zero_division=0)),
            "exact_match": float((gold == predicted).all(-1).mean()),
        }

    def error(self, example: Texts, prediction: Prediction) -> float:
        return prediction.confidence if set(prediction.value) != set(self.gold(example)) else 0.0


@dataclass(frozen=True)
class Regression(TextTask):
    """A score per text or pair, trained with the squared error."""

    metric = "spearman"

    def head_settings(self) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def target(self, example: Texts) -> float:
        assert isinstance(example.label, float)
        return example.label

    def predict(
        self, inputs: Sequence[ModelInput], logits: Sequence[np.ndarray], examples: Sequence[Texts]
    ) -> list[Prediction]:
        """The score, which has no confidence."""
        return [Prediction(score, float("nan")) for score in by_example(inputs, logits).reshape(-1).tolist()]

    def scores(self, examples: Sequence[Texts], predictions: Sequence[Any]) -> dict[str, float | None]:
        """Pearson's and Spearman's correlation, undefined if all predictions are equal, and the explained variance R².

        R² is 0 for predicting the mean.
        """
        from scipy.stats import pearsonr, spearmanr
        from sklearn.metrics import r2_score

        gold = [example.label for example in examples]
        if len(set(gold)) < 2:
            return {"pearson": None, "spearman": None, "r2": None}
        varies = len(set(predictions)) > 1
        return {
            "pearson": float(pearsonr(gold, list(predictions)).statistic) if varies else None,
            "spearman": float(spearmanr(gold, list(predictions)).statistic) if varies else None,
            "r2": float(r2_score(gold, list(predictions))),
        }

    def error(self, example: Texts, prediction: Prediction) -> float:
        return float(abs(prediction.value - self.target(example)))


def tuned_thresholds(probabilities: np.ndarray, gold: np.ndarray) -> tuple[float, ...]:
    """The thresholds with the highest F1 of each label, as near to 0.5 as possible; 0.5 for a label that is absent.

    Args:
        probabilities: `(examples, labels)`.
        gold: `(examples, labels)`, 1 where an example has a label.
    """
    return tuple(_threshold(column, labels) for column, labels in zip(probabilities.T, gold.T, strict=True))


def _threshold(probabilities: np.ndarray, gold: np.ndarray) -> float:
    from sklearn.metrics import precision_recall_curve

    if not gold.any():
        return 0.5
    precision, recall, values = precision_recall_curve(gold, probabilities)
    f1 = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-12)
    # All thresholds above the next lower probability assign the same labels.
    lower = np.concatenate([[0.0], values[:-1]])
    best = np.flatnonzero(f1 >= f1.max() - 1e-9)
    nearest = [0.5 if lower[place] < 0.5 <= values[place] else (lower[place] + values[place]) / 2 for place in best]
    return float(min(nearest, key=lambda value: abs(value - 0.5)))


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, ...]], length: int
) -> list[tuple[dict[str, Any], int]]:
    """Inputs of texts or pairs, truncated to `length` tokens, each with its number of tokens before truncation."""
    encoded = tokenizer(*map(list, zip(*texts, strict=True)), verbose=False)
    rows = []
    for place, parts in enumerate(texts):
        row = {key: encoded[key][place] for key in encoded}
        tokens = len(row["input_ids"])
        if tokens > length:
            row = dict(tokenizer(*parts, truncation=True, max_length=length))
        rows.append((row, tokens))
    return rows
