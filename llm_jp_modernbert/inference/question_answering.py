"""Extractive question answering: inputs of questions about passages, and the best span of a passage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.tokenization.spans import Span, with_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Shorter windows leave too little text to find an answer in.
_MIN_WINDOW = 16


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
    stride: int = 128,
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


def best_span(start: np.ndarray, end: np.ndarray, offsets: Sequence[Span | None], longest: int) -> tuple[float, Span]:
    """The span whose first and last tokens have the greatest sum of logits.

    Args:
        start: `(tokens,)` logits of the first token; values after the offsets are padding.
        end: `(tokens,)` logits of the last token.
        offsets: spans of the tokens; None for tokens that are not part of the paragraph.
        longest: maximum tokens of an answer.

    Returns:
        The sum, and the span in the text.
    """
    excluded = np.array([-np.inf if span is None else 0.0 for span in offsets])
    start, end = start[: len(offsets)] + excluded, end[: len(offsets)] + excluded
    best, span = -np.inf, (0, 0)
    for width in range(min(longest, len(offsets))):
        sums = start[: len(offsets) - width] + end[width:]
        place = int(sums.argmax())
        first, last = offsets[place], offsets[place + width]
        if sums[place] > best and first is not None and last is not None:
            best, span = float(sums[place]), (first[0], last[1])
    return best, span


def _around(ids: list[int], context: list[int]) -> tuple[list[int], list[int]]:
    """The ids before and after the paragraph of a pair."""
    for begin in range(len(ids) - len(context), -1, -1):
        if ids[begin : begin + len(context)] == context:
            return ids[:begin], ids[begin + len(context) :]
    raise UsageError("the model's tokenizer segments the second text of a pair differently from a single text.")
