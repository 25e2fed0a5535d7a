"""Extractive question answering: the answer to a question is a span of a passage.

Exact match and F1 as in SQuAD (Rajpurkar et al. 2016), with characters instead of words, as in JGLUE: both answers are
lower-cased, trailing full stops (。) and surrounding whitespace are removed, and runs of whitespace become one space.
The prediction is compared with all correct answers, and the best score counts.

A question without an answer has the correct answer "", as in SQuAD 2.0 (Rajpurkar et al. 2018), and is learned as the
first token of the input.

A passage that fits into the model together with its question is read whole; otherwise it is read in overlapping
windows, and the best span of all windows is the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.inference.heads import QUESTION_ANSWERING
from llm_jp_modernbert.inference.question_answering import (
    LONGEST,
    LONGEST_ANSWER,
    STRIDE,
    THRESHOLD,
    SpanScores,
    span_scores,
    windows,
)
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
        start: start of the first answer in the passage, in characters; 0 if there is none.
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
        no_answer_threshold: see `inference.question_answering.THRESHOLD`.
    """

    stride: int = STRIDE
    longest_answer: int = LONGEST_ANSWER
    no_answer_threshold: float | None = None

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
            end = example.start + len(example.answers[0]) if example.answers else example.start
            answer = strip(example.context, (example.start, end))
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
        """The text of the most probable span of each example, or "" if it has no answer."""
        predictions = []
        for example, scores in zip(examples, self._span_scores(inputs, logits, examples), strict=True):
            ((span, probability),) = scores.ranked(1, self.no_answer_threshold)
            predictions.append(Prediction(example.context[slice(*span)] if span else "", probability))
        return predictions

    def tuned(
        self, inputs: Sequence[ModelInput], logits: Sequence[np.ndarray], examples: Sequence[Question]
    ) -> QuestionAnswering:
        """The task with the threshold of the best F1; 0, if no example is unanswerable."""
        if self.no_answer_threshold is None or all(example.answers for example in examples):
            return self
        margins, gains = [], []
        for example, scores in zip(examples, self._span_scores(inputs, logits, examples), strict=True):
            for span, score in scores.best(1):
                margins.append(scores.no_answer - score)
                gains.append(_f1(example, example.context[slice(*span)]) - _f1(example, ""))
        return replace(self, no_answer_threshold=_best_threshold(np.array(margins), np.array(gains)))

    def decision_settings(self) -> dict[str, Any]:
        return {THRESHOLD: self.no_answer_threshold, LONGEST: self.longest_answer}

    def gold(self, example: Question) -> Any:
        return list(example.answers)

    def right(self, example: Question) -> Any:
        return (self.gold(example) or [""])[0]

    def scores(self, examples: Sequence[Question], predictions: Sequence[Any]) -> dict[str, float | None]:
        """Means of exact match and of F1, from 0 to 1.

        If there are unanswerable questions, also F1 of the others, and the share of the unanswerable questions that
        were found to be so.
        """
        exact = [
            any(normalized(prediction) == normalized(answer) for answer in example.answers or ("",))
            for example, prediction in zip(examples, predictions, strict=True)
        ]
        f1 = [_f1(example, prediction) for example, prediction in zip(examples, predictions, strict=True)]
        results: dict[str, float | None] = {"exact_match": float(np.mean(exact)), "f1": float(np.mean(f1))}
        answerable = np.array([bool(example.answers) for example in examples])
        if not answerable.all():
            results["has_answer_f1"] = float(np.array(f1)[answerable].mean()) if answerable.any() else None
            results["no_answer_accuracy"] = float(np.array(f1)[~answerable].mean())
        return results

    def error(self, example: Question, prediction: Prediction) -> float:
        return prediction.confidence * (1 - _f1(example, prediction.value))

    def _span_scores(
        self, inputs: Sequence[ModelInput], logits: Sequence[np.ndarray], examples: Sequence[Question]
    ) -> Iterator[SpanScores]:
        """Scores of each example, from all its windows."""
        read: list[list[tuple[np.ndarray, Sequence[Span | None]]]] = [[] for _ in examples]
        for row, values in zip(inputs, logits, strict=True):
            read[row.example].append((values, row.offsets))
        return (span_scores(one, self.longest_answer) for one in read)


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


def _f1(example: Question, prediction: str) -> float:
    """F1 of a prediction with the most similar correct answer."""
    return max(character_f1(prediction, answer) for answer in example.answers or ("",))


def _best_threshold(margins: np.ndarray, gains: np.ndarray) -> float:
    """The threshold with the greatest sum of gains, and of several, that nearest to 0.

    Args:
        margins: score of "no answer" minus that of the best span, for each example.
        gains: F1 of the best span minus that of "no answer"; counts if the margin does not exceed the threshold.
    """
    order = np.argsort(margins)
    margins = np.concatenate([[-np.inf], margins[order], [np.inf]])
    totals = np.concatenate([[0.0], np.cumsum(gains[order])])
    lower, upper = margins[:-1], margins[1:]
    # Between two margins; below the first and above the last, 1 away from it.
    with np.errstate(invalid="ignore"):
        between = np.where(np.isinf(lower), upper - 1, np.where(np.isinf(upper), lower + 1, (lower + upper) / 2))
    thresholds = np.where((lower <= 0) & (upper > 0), 0.0, between)
    totals[lower == upper] = -np.inf
    best = thresholds[totals >= totals.max() - 1e-9]
    return float(best[np.abs(best).argmin()])


def _tokens_of(offsets: Sequence[Span | None], part: Span | None) -> tuple[int, int]:
    """First and last token of a part of the text; `(0, 0)` if the part is incomplete."""
    begin, end = part or (0, 0)
    inside = [place for place, span in enumerate(offsets) if span is not None and span[0] < end and span[1] > begin]
    if not inside:
        return 0, 0
    first, last = offsets[inside[0]], offsets[inside[-1]]
    complete = first is not None and last is not None and first[0] <= begin and last[1] >= end
    return (inside[0], inside[-1]) if complete else (0, 0)
