"""Which of several choices answers a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.inference.heads import MULTIPLE_CHOICE

from .head_task import HeadTask, ModelInput, Prediction, by_example, most_probable
from .text import Texts, encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class MultipleChoice(HeadTask[Texts]):
    """Examples with one number of choices: `texts` are the question and its choices.

    The label is the name of the correct choice, one of `labels`.
    """

    head = MULTIPLE_CHOICE
    metric = "accuracy"

    def head_settings(self) -> dict[str, Any]:
        """None: the head scores each choice."""
        return {}

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Texts], length: int) -> list[ModelInput]:
        """One input of several question-choice pairs per example."""
        rows = []
        for place, example in enumerate(examples):
            question, *choices = example.texts
            pairs = encode_texts(tokenizer, [(question, choice) for choice in choices], length)
            inputs = {key: [pair[key] for pair, _ in pairs] for key in pairs[0][0]}
            target = self.labels.index(str(example.label))
            rows.append(ModelInput({**inputs, "labels": target}, place, max(tokens for _, tokens in pairs)))
        return rows

    def predict(
        self, inputs: Sequence[ModelInput], logits: Sequence[np.ndarray], examples: Sequence[Texts]
    ) -> list[Prediction]:
        """The name of the choice with the highest score."""
        return most_probable(self.labels, by_example(inputs, logits))

    def scores(self, examples: Sequence[Texts], predictions: Sequence[Any]) -> dict[str, float | None]:
        """Accuracy."""
        right = [prediction == example.label for example, prediction in zip(examples, predictions, strict=True)]
        return {"accuracy": float(np.mean(right))}

    def gold(self, example: Texts) -> Any:
        return example.label

    def error(self, example: Texts, prediction: Prediction) -> float:
        return prediction.confidence if prediction.value != example.label else 0.0
