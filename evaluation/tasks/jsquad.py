"""JSQuAD (Kurihara et al. 2022): the answer to a question is a span of a paragraph.

Exact match and F1 as in SQuAD (Rajpurkar et al. 2016), with characters instead of words, as in JGLUE: both answers are
lower-cased, trailing full stops (。) and surrounding whitespace are removed, and runs of whitespace become one space.
The prediction is compared with all correct answers, and the best score counts.

A paragraph that fits into the model together with its question is read whole; otherwise it is read in overlapping
windows, and the best span of all windows is the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.tokenization.spans import Span, strip, with_spans

from ..data.readers import squad
from .finetuning import Row, Splits
from .jglue import PublicSplits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Shorter windows leave too little text to find an answer in.
_MIN_WINDOW = 16


@dataclass(frozen=True)
class Question:
    """A question about a paragraph.

    Attributes:
        question: the question.
        context: the paragraph.
        answers: all correct answers.
        start: start of the first answer in the paragraph, in characters.
    """

    question: str
    context: str
    answers: tuple[str, ...]
    start: int


@dataclass(frozen=True)
class Jsquad(PublicSplits):
    """Attributes as in `FineTuning`, and:

    Attributes:
        max_length: maximum tokens of an input; the model's own limit applies as well.
        stride: tokens that two windows share.
        longest_answer: maximum tokens of an answer.
    """

    max_length: int = 8192
    stride: int = 128
    longest_answer: int = 30

    name = "jsquad"
    hub_task = "question-answering"
    head = "AutoModelForQuestionAnswering"
    metric = "f1"
    config = "JSQuAD"
    files = "jsquad-v1.*/{split}-v1.*.json"

    def read(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Questions of a file in the layout of the Hub's rows."""
        for article in squad(path):
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = question.get("answers", [])
                    columns = {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")}
                    row = {"question": question["question"], "context": paragraph["context"], "answers": columns}
                    yield f"{path}, question {question.get('id')}", row

    def parse(self, row: dict[str, Any]) -> Question:
        """Checks the question, and finds its first answer in the paragraph."""
        question, context = row["question"], row["context"]
        texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
        if not isinstance(question, str) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValueError("expected a question, and answers that are texts")
        start = starts[0]
        if not isinstance(start, int) or not context.startswith(texts[0], start):
            start = context.find(texts[0])
        if start < 0:
            raise ValueError(f"answer {texts[0]!r} does not occur in its paragraph")
        return Question(question, context, tuple(texts), start)

    def group(self, example: Any) -> str:
        return str(example.context)

    def rows(
        self, tokenizer: PreTrainedTokenizerBase, data: Splits, examples: Sequence[Any], length: int
    ) -> list[Row]:
        """One or more windows per example."""
        contexts: dict[str, tuple[list[int], list[Span | None]]] = {}
        rows: list[Row] = []
        for place, example in enumerate(examples):
            if example.context not in contexts:
                contexts[example.context] = with_spans(tokenizer, example.context)
            rows += self._windows(tokenizer, place, example, *contexts[example.context], length)
        return rows

    def _windows(
        self,
        tokenizer: PreTrainedTokenizerBase,
        place: int,
        example: Question,
        ids: list[int],
        spans: list[Span | None],
        length: int,
    ) -> Iterator[Row]:
        encoded = tokenizer(example.question, example.context, verbose=False)
        before, after = _around(encoded["input_ids"], ids)
        types = encoded.get("token_type_ids")
        room = length - len(before) - len(after)
        if room < min(_MIN_WINDOW, len(ids)):
            raise UsageError(
                f"question {example.question[:30]!r}… leaves {max(room, 0)} of {length} tokens for the paragraph, "
                "so it is too long for this model."
            )
        # Spans of tokens have no surrounding whitespace either.
        answer = strip(example.context, (example.start, example.start + len(example.answers[0])))
        begin = 0
        while True:
            end = min(begin + room, len(ids))
            offsets = (*[None] * len(before), *spans[begin:end], *[None] * len(after))
            first, last = _tokens_of(offsets, answer)
            inputs: dict[str, Any] = {
                "input_ids": [*before, *ids[begin:end], *after],
                "attention_mask": [1] * len(offsets),
                "start_positions": first,
                "end_positions": last,
            }
            if types is not None:
                context_types = types[len(before) + begin :][: len(offsets) - len(before)]
                inputs["token_type_ids"] = types[: len(before)] + context_types
            yield Row(inputs, place, offsets)
            if end == len(ids):
                return
            begin += max(room - self.stride, room // 2)

    def predictions(self, rows: Sequence[Row], logits: Any, data: Splits, examples: Sequence[Any]) -> list[Any]:
        """The text of the best span of each example."""
        starts, ends = logits
        best: dict[int, tuple[float, str]] = {}
        for row, start, end in zip(rows, starts, ends, strict=True):
            score, span = best_span(start, end, row.offsets, self.longest_answer)
            if row.example not in best or score > best[row.example][0]:
                best[row.example] = (score, examples[row.example].context[slice(*span)])
        return [best[place][1] for place in range(len(examples))]

    def gold(self, example: Any) -> Any:
        return list(example.answers)

    def scores(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float | None]:
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


def _around(ids: list[int], context: list[int]) -> tuple[list[int], list[int]]:
    """The ids before and after the paragraph of a pair."""
    for begin in range(len(ids) - len(context), -1, -1):
        if ids[begin : begin + len(context)] == context:
            return ids[:begin], ids[begin + len(context) :]
    raise UsageError("the model's tokenizer segments the second text of a pair differently from a single text.")


def _tokens_of(offsets: Sequence[Span | None], part: Span | None) -> tuple[int, int]:
    """First and last token of a part of the text; `(0, 0)` if the part is incomplete."""
    begin, end = part or (0, 0)
    inside = [place for place, span in enumerate(offsets) if span is not None and span[0] < end and span[1] > begin]
    if not inside:
        return 0, 0
    first, last = offsets[inside[0]], offsets[inside[-1]]
    complete = first is not None and last is not None and first[0] <= begin and last[1] >= end
    return (inside[0], inside[-1]) if complete else (0, 0)
