"""Extractive question answering: the answer to a question is a span of a passage.

Exact match and F1 as in SQuAD (Rajpurkar et al. 2016), with characters instead of words, as in JGLUE: both answers are
lower-cased, trailing full stops (。) and surrounding whitespace are removed, and runs of whitespace become one space.
The prediction is compared with all correct answers, and the best score counts.

A passage that fits into the model together with its question is read whole; otherwise it is read in overlapping
windows, and the best span of all windows is the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.inference.heads import QUESTION_ANSWERING
from llm_jp_modernbert.inference.question_answering import best_span, windows
from llm_jp_modernbert.tokenization.spans import Span, strip, with_spans

from .head_task import HeadTask, ModelInput, Prediction

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Question:
    """A question about a passage.

    Attributes:
        question: the question.
        context: the passage.
        answers: all correct answers; empty if the passage has none.
        start: start of the first answer in the passage, in characters.
    """

    question: str
    context: str
    answers: tuple[str, ...]
    start: int


@dataclass(frozen=True)
class QuestionAnswering(HeadTask[Question]):
    """Questions about passages.

    Attributes:
        stride: tokens that two windows share.
        longest_answer: maximum tokens of an answer.
    """

    stride: int = 128
    longest_answer: int = 30

    head = QUESTION_ANSWERING
    metric = "f1"

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Question], length: int
    ) -> list[ModelInput]:
        """One or more windows per example."""
        contexts: dict[str, tuple[list[int], list[Span | None]]] = {}
        rows: list[ModelInput] = []
        for place, example in enumerate(examples):
            if example.context not in contexts:
                contexts[example.context] = with_spans(tokenizer, example.context)
            # Spans of tokens have no surrounding whitespace either.
            answer = strip(example.context, (example.start, example.start + len(example.answers[0])))
            for window in windows(
                tokenizer, example.question, example.context, length, self.stride, contexts[example.context]
            ):
                first, last = _tokens_of(window.offsets, answer)
                positions = {"start_positions": first, "end_positions": last}
                rows.append(ModelInput({**window.inputs, **positions}, place, window.tokens, window.offsets))
        return rows

    def predict(
        self, inputs: Sequence[ModelInput], logits: Sequence[np.ndarray], examples: Sequence[Question]
    ) -> list[Prediction]:
        """The text of the best span of each example."""
        best: dict[int, tuple[float, str]] = {}
        for row, scores in zip(inputs, logits, strict=True):
            score, span = best_span(scores[:, 0], scores[:, 1], row.offsets, self.longest_answer)
            if row.example not in best or score > best[row.example][0]:
                best[row.example] = (score, examples[row.example].context[slice(*span)])
        return [Prediction(best[place][1], float("nan")) for place in range(len(examples))]

    def gold(self, example: Question) -> Any:
        return list(example.answers)

    def scores(self, examples: Sequence[Question], predictions: Sequence[Any]) -> dict[str, float | None]:
        """Means of exact match and of F1, from 0 to 1."""
        pairs = list(zip(examples, predictions, strict=True))
        exact = [
            any(normalized(prediction) == normalized(answer) for answer in example.answers)
            for example, prediction in pairs
        ]
        overlap = [
            max(character_f1(prediction, answer) for answer in example.answers) for example, prediction in pairs
        ]
        return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(overlap))}

    def error(self, example: Question, prediction: Prediction) -> float:
        return 1 - max(character_f1(prediction.value, answer) for answer in example.answers)


def normalized(answer: str) -> str:
    """An answer in the form that is compared, by the steps of JGLUE's own script and in their order."""
    return " ".join(answer.lower().rstrip("。").split())


def character_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall of characters with multiplicity."""
    predicted, correct = normalized(prediction), normalized(answer)
    if not predicted or not correct:
        return float(predicted == correct)
    common = sum((Counter(predicted) & Counter(correct)).values())
    return 2 * common / (len(predicted) + len(correct))


def _tokens_of(offsets: Sequence[Span | None], part: Span | None) -> tuple[int, int]:
    """First and last token of a part of the text; `(0, 0)` if the part is incomplete."""
    begin, end = part or (0, 0)
    inside = [place for place, span in enumerate(offsets) if span is not None and span[0] < end and span[1] > begin]
    if not inside:
        return 0, 0
    first, last = offsets[inside[0]], offsets[inside[-1]]
    complete = first is not None and last is not None and first[0] <= begin and last[1] >= end
    return (inside[0], inside[-1]) if complete else (0, 0)
