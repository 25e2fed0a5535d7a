"""Extractive question answering: the answer to a question is a span of a passage, or that it has no answer.

A model gives every token two logits: for being the first, and for being the last token of the answer. The score of a
span is the sum of both, and its best score counts if several windows contain it. The score of "no answer" is that of
the first token of the input, in the window where it is lowest (Devlin et al. 2019, for SQuAD 2.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.terminal import printable
from llm_jp_modernbert.core.text_files import check_characters
from llm_jp_modernbert.tokenization.spans import Span, with_spans

from .loading import check_vocabulary, context_length

if TYPE_CHECKING:
    from rich.text import Text
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST_ANSWER = 64
"""Default maximum number of tokens of an answer."""

LONGEST = "longest_answer"
"""Key in config.json: maximum number of tokens of an answer. Models without the key use `LONGEST_ANSWER`."""

STRIDE = 128
"""Default number of tokens that two windows share."""

THRESHOLD = "no_answer_threshold"
"""Key in config.json: a passage has no answer if this exceeds the best span's score by more than the threshold.

Null for models that were trained without unanswerable questions and always answer. Models without the key use 0.
"""

# Shorter windows leave too little text to find an answer in.
_MIN_WINDOW = 16

# Characters that are shown on each side of an answer.
_SURROUNDINGS = 60


@dataclass(frozen=True)
class Answer:
    """An answer in a passage, or that the passage has none.

    Attributes:
        text: the answer, `context[start:end]`; empty if the passage has no answer.
        start, end: its place in the passage, in characters; both 0 if the passage has no answer.
        score: its probability among all answers of the passage and "no answer", from 0 to 1.
    """

    text: str
    start: int
    end: int
    score: float


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    context: str,
    top_k: int = 1,
    longest_answer: int | None = None,
) -> list[Answer]:
    """Answers a question by spans of a passage.

    A passage that fits into the model together with the question is read whole; a longer one is read in overlapping
    windows.

    Args:
        model, tokenizer: a question answering model and its tokenizer.
        question: the question.
        context: the passage, of any length.
        top_k: maximum number of answers.
        longest_answer: maximum tokens of an answer; by default that of the model's configuration, or 64.

    Returns:
        The most probable answers, in descending order of probability. "No answer" is one of them, with empty text,
        unless `no_answer_threshold` in the model's configuration is None.

    Raises:
        UsageError: the question or the passage is empty or has lone surrogates, the question is too long, a setting
            is invalid, or the model's weights are broken.

    Example:
        >>> answer(model, tokenizer, "建てられたのは何年？", "図書館は1985年に建てられた。")
        [Answer(text='1985年', start=4, end=9, score=0.93)]
    """
    import torch

    check_vocabulary(model.config, tokenizer)
    longest = getattr(model.config, LONGEST, LONGEST_ANSWER) if longest_answer is None else longest_answer
    threshold = getattr(model.config, THRESHOLD, 0.0)
    for name, value in (("top-k", top_k), (LONGEST, longest)):
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} is {value!r}; it must be an integer from 1.")
    if not isinstance(threshold, (int, float, type(None))):
        raise UsageError(f"{THRESHOLD} in config.json is {threshold!r}; it must be a number or null.")
    for name, text in (("question", question), ("passage", context)):
        check_text(name, text)
    read = []
    for window in windows(tokenizer, question, context, context_length(model.config, tokenizer)):
        inputs = {key: torch.tensor([values], device=model.device) for key, values in window.inputs.items()}
        with torch.inference_mode():
            output = model(**inputs)
        logits = torch.stack([output.start_logits[0], output.end_logits[0]], -1)
        if not logits.isfinite().all():
            raise UsageError(f"the model computes numbers that are not finite in {model.dtype}. Try --dtype float32.")
        read.append((logits.float().cpu().numpy(), window.offsets))
    ranked = span_scores(read, longest).ranked(top_k, threshold)
    return [
        Answer(context[start:end], start, end, probability)
        for (start, end), probability in ((span or (0, 0), probability) for span, probability in ranked)
    ]


def check_text(name: str, text: str) -> None:
    """Raises `UsageError` if a text is empty or has lone surrogates; `name` says what it is."""
    if not text.strip():
        raise UsageError(f"the {name} is empty.")
    try:
        check_characters(text)
    except UsageError as error:
        raise UsageError(f"the {name} has {error}") from None


def render(context: str, answers: Sequence[Answer]) -> Text:
    """The answers, one a line, with their probabilities and places, and the passage around the first span."""
    from rich.text import Text

    shown = Text()
    for found in answers:
        shown.append(f"{found.score:7.2%}  ")
        if not found.text:
            shown.append("The passage has no answer.\n", style="yellow")
            continue
        shown.append(_one_line(found.text), style="bold green")
        shown.append(f"  (characters {found.start}–{found.end})\n", style="dim")
    spans = [found for found in answers if found.text]
    if spans:
        begin, end = max(spans[0].start - _SURROUNDINGS, 0), spans[0].end + _SURROUNDINGS
        shown.append("…" if begin else "")
        shown.append(_one_line(context[begin : spans[0].start]))
        shown.append(_one_line(spans[0].text), style="bold green reverse")
        shown.append(_one_line(context[spans[0].end : end]))
        shown.append("…" if context[end:] else "")
    return shown


def _one_line(text: str) -> str:
    return printable(text.replace("\r\n", " ").replace("\n", " ").replace("\r", " "))


@dataclass(frozen=True)
class Window:
    """A question and a part of a passage as one model input.

    Attributes:
        inputs: `input_ids`, `attention_mask` and, if the tokenizer has them, `token_type_ids`.
        offsets: span of each token in the passage; None for other tokens.
        tokens: number of tokens of the question and the whole passage.
    """

    inputs: dict[str, list[int]]
    offsets: tuple[Span | None, ...]
    tokens: int


def windows(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    context: str,
    length: int,
    stride: int = STRIDE,
    encoded_context: tuple[list[int], list[Span | None]] | None = None,
) -> Iterator[Window]:
    """Inputs of a question about a passage: one if both fit into `length` tokens, or overlapping windows.

    Args:
        tokenizer: the model's tokenizer.
        question: the question.
        context: the passage.
        length: maximum tokens of an input.
        stride: tokens that two windows share.
        encoded_context: result of `with_spans` for the passage, if known.

    Raises:
        UsageError: the question leaves too little room for the passage.
    """
    ids, spans = encoded_context or with_spans(tokenizer, context)
    encoded = tokenizer(question, context, verbose=False)
    before, after = _around(encoded["input_ids"], ids)
    types = encoded.get("token_type_ids")
    room = length - len(before) - len(after)
    if room < min(_MIN_WINDOW, len(ids)):
        raise UsageError(
            f"question {question[:30]!r}… leaves {max(room, 0)} of {length} tokens for the passage, so it is too long "
            "for this model."
        )
    begin = 0
    while True:
        end = min(begin + room, len(ids))
        offsets = (*[None] * len(before), *spans[begin:end], *[None] * len(after))
        inputs: dict[str, Any] = {
            "input_ids": [*before, *ids[begin:end], *after],
            "attention_mask": [1] * len(offsets),
        }
        if types is not None:
            context_types = types[len(before) + begin :][: len(offsets) - len(before)]
            inputs["token_type_ids"] = types[: len(before)] + context_types
        yield Window(inputs, offsets, len(encoded["input_ids"]))
        if end == len(ids):
            return
        begin += max(room - stride, room // 2)


@dataclass(frozen=True)
class SpanScores:
    """Scores of all answers of a passage.

    Attributes:
        places: spans of the passage's tokens, in order; tokens of one character share a place.
        sums: `(longest answer, places)` scores of the spans, by their number of further places and first place; -inf
            for impossible spans.
        no_answer: score of "no answer".
    """

    places: Sequence[Span]
    sums: np.ndarray
    no_answer: float

    def best(self, count: int) -> list[tuple[Span, float]]:
        """The spans with the best scores, in descending order, and their scores."""
        left = self.sums.ravel().copy()
        spans: list[tuple[Span, float]] = []
        while left.size and len(spans) < count:
            place = int(left.argmax())
            score = float(left[place])
            if score == -np.inf:
                break
            further, first = divmod(place, len(self.places))
            spans.append(((self.places[first][0], self.places[first + further][1]), score))
            left[place] = -np.inf
        return spans

    def ranked(self, count: int, threshold: float | None) -> list[tuple[Span | None, float]]:
        """The most probable answers and their probabilities among all answers.

        Args:
            count: maximum number of answers.
            threshold: subtracted from the score of "no answer"; None excludes "no answer".

        Returns:
            Spans in descending order of probability; None for "no answer".
        """
        scored: list[tuple[Span | None, float]] = [*self.best(count)]
        if threshold is not None or not scored:
            scored.append((None, self.no_answer - (threshold or 0.0)))
        # "No answer" must be better than the best span.
        scored.sort(key=lambda pair: -pair[1])
        everything = np.append(self.sums.ravel(), [score for span, score in scored if span is None])
        highest = everything.max()
        log_sum = highest + np.log(np.exp(everything - highest).sum())
        return [(span, float(np.exp(score - log_sum))) for span, score in scored[:count]]


def span_scores(windows: Sequence[tuple[np.ndarray, Sequence[Span | None]]], longest: int) -> SpanScores:
    """Scores of all spans of a passage up to a number of tokens.

    Args:
        windows: for each window of the passage, `(tokens, 2)` logits of the first and the last token of the answer,
            and the spans of the tokens; None for tokens that are not part of the passage. Logits after the spans are
            padding.
        longest: maximum tokens of an answer.
    """
    places = sorted({span for _, offsets in windows for span in offsets if span is not None})
    numbers = {span: number for number, span in enumerate(places)}
    sums = np.full((min(longest, len(places)), len(places)), -np.inf)
    for logits, offsets in windows:
        start, end = logits[: len(offsets)].astype(np.float64).T
        owners = np.array([-1 if span is None else numbers[span] for span in offsets])
        for width in range(min(longest, len(offsets))):
            count = len(offsets) - width
            first, last = owners[:count], owners[width:]
            inside = (first >= 0) & (last >= 0)
            first, last = first[inside], last[inside]
            np.maximum.at(sums, (last - first, first), (start[:count] + end[width:])[inside])
    return SpanScores(places, sums, min(float(logits[0].astype(np.float64).sum()) for logits, _ in windows))


def _around(ids: list[int], context: list[int]) -> tuple[list[int], list[int]]:
    """The ids before and after the paragraph of a pair."""
    for begin in range(len(ids) - len(context), -1, -1):
        if ids[begin : begin + len(context)] == context:
            return ids[:begin], ids[begin + len(context) :]
    raise UsageError("the model's tokenizer segments the second text of a pair differently from a single text.")
