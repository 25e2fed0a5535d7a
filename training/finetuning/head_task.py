"""Interface of the types of task: examples → model inputs, logits → predictions and scores.

The command `finetune` and the fine-tuning evaluations share one class per type.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.heads import Head

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of tokens that do not count in the loss."""

E = TypeVar("E")


@dataclass(frozen=True)
class ModelInput:
    """One model input.

    Attributes:
        inputs: token ids and labels.
        example: index of its example.
        tokens: number of tokens before truncation, special tokens included.
        offsets: span of each token in the example's text; None for other tokens. Empty if not needed.
    """

    inputs: dict[str, Any]
    example: int
    tokens: int = 0
    offsets: tuple[tuple[int, int] | None, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """A prediction for one example.

    Attributes:
        value: the prediction as a JSON value, in the form of `HeadTask.gold`.
        confidence: probability that the model assigns to it, from 0 to 1; NaN if it assigns none.
    """

    value: Any
    confidence: float


@dataclass(frozen=True)
class HeadTask(ABC, Generic[E]):
    """A type of task; `E` is the type of its examples.

    Attributes:
        labels: names of the model's outputs, in order; empty if they have none.
    """

    labels: tuple[str, ...] = ()

    head: ClassVar[Head]

    metric: ClassVar[str]
    """Metric that selects a model."""

    @abstractmethod
    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[E], length: int) -> list[ModelInput]:
        """Inputs of some examples, each of at most `length` tokens."""

    @abstractmethod
    def predict(
        self, inputs: Sequence[ModelInput], logits: Sequence[np.ndarray], examples: Sequence[E]
    ) -> list[Prediction]:
        """The prediction for each example.

        Args:
            inputs: the inputs of all examples, in any order.
            logits: one float array per input: `(outputs,)`, `(tokens, outputs)`, or `(tokens, 2)` for the first and
                the last token of an answer.
            examples: the examples of the inputs.
        """

    @abstractmethod
    def scores(self, examples: Sequence[E], predictions: Sequence[Any]) -> dict[str, float | None]:
        """Metrics by name, higher is better; None for an undefined metric.

        Args:
            examples: the examples.
            predictions: `Prediction.value` of each example.
        """

    @abstractmethod
    def gold(self, example: E) -> Any:
        """The correct answer, as a JSON value."""

    def right(self, example: E) -> Any:
        """The prediction that has the best scores."""
        return self.gold(example)

    def check_metric(self, metric: str, examples: Sequence[E]) -> None:
        """Raises `UsageError` if a metric is unknown, or undefined for every model on the validation examples."""
        best = {"loss": 0.0, **self.scores(examples, [self.right(example) for example in examples])}
        if metric not in best:
            raise UsageError(f"metric_for_best_model: unknown value {metric!r}; choose from {', '.join(best)}.")
        if best[metric] is None:
            raise UsageError(
                f"{metric} is undefined on the {len(examples)} validation examples, such as if all have one score. "
                "Name a --validation file with different ones, or set metric_for_best_model=loss."
            )

    @abstractmethod
    def error(self, example: E, prediction: Prediction) -> float:
        """How confidently wrong a prediction is: 0 if it is right, and larger for worse errors."""

    def tuned(self, inputs: Sequence[ModelInput], logits: Sequence[np.ndarray], examples: Sequence[E]) -> HeadTask[E]:
        """The task with the thresholds that are best for a model on some examples; itself, if it has no thresholds.

        Args:
            inputs, logits, examples: as in `predict`.
        """
        return self

    def decision_settings(self) -> dict[str, Any]:
        """How predictions are chosen, as entries of the model's config.json that transformers does not know."""
        return {}

    def head_settings(self) -> dict[str, Any]:
        """Configuration of the head: its labels, if it has any."""
        if not self.labels:
            return {}
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
        }


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(-1, keepdims=True)
    return probabilities


def by_example(inputs: Sequence[ModelInput], logits: Sequence[np.ndarray]) -> np.ndarray:
    """`(examples, outputs)` logits in the order of the examples, for tasks with one input per example."""
    order = np.argsort([row.example for row in inputs])
    ordered: np.ndarray = np.stack([logits[index] for index in order])
    return ordered


def most_probable(labels: Sequence[str], logits: np.ndarray) -> list[Prediction]:
    """The label with the highest of `(examples, labels)` logits for each example."""
    return [Prediction(labels[row.argmax()], float(row.max())) for row in softmax(logits)]
