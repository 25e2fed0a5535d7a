"""JSQuAD (Kurihara et al. 2022): the answer to a question is a span of a paragraph.

Exact match and F1 as in SQuAD (Rajpurkar et al. 2016), with characters in the place of words, as JGLUE counts them:
both answers lose case, full stops (。) at their end and blanks at their ends, runs of blanks become one; each is
compared with all right answers, and the best counts.

The whole paragraph is read where question and paragraph fit into the model; else it is read in overlapping windows,
and the best span of all windows is the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from ..data.labelled import JGLUE, Source, read_split
from ..data.readers import squad
from ..data.spans import Span, with_spans
from .finetuning import FineTuning, Row, Splits, splits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A window shorter than this leaves nothing to find an answer in.
_SHORTEST_WINDOW = 16


@dataclass(frozen=True)
class Question:
    """A question on a paragraph.

    Attributes:
        question: in words.
        context: the paragraph.
        answers: all that are right.
        start: where the first of them begins in the paragraph.
    """

    question: str
    context: str
    answers: tuple[str, ...]
    start: int


@dataclass(frozen=True)
class Jsquad(FineTuning):
    """Attributes as of `FineTuning`, and:

    Attributes:
        max_length: tokens of an input at most; the model's own limit is below or above it.
        stride: tokens that two windows share.
        longest_answer: in tokens.
    """

    max_length: int = 8192
    stride: int = 128
    longest_answer: int = 30

    name: ClassVar[str] = "jsquad"
    head: ClassVar[str] = "AutoModelForQuestionAnswering"
    metric: ClassVar[str] = "f1"

    def load(self) -> Splits:
        """Both public splits; questions on one paragraph are held out together."""
        validation, train = (
            read_split(
                Source(
                    name="JSQuAD",
                    repository=JGLUE,
                    config="JSQuAD",
                    pattern=f"jsquad-v1.*/{split}-v1.*.json",
                    wanted="JSQuAD (github.com/yahoojapan/JGLUE), or name files to train on by --train-file",
                ),
                split_name,
                self.options,
                _questions,
            )
            for split, split_name in (("valid", "validation"), ("train", "train"))
        )
        return splits(self, validation, train, _example, lambda example: str(example.context))

    def rows(
        self, tokenizer: PreTrainedTokenizerBase, data: Splits, examples: Sequence[Any], length: int
    ) -> list[Row]:
        """An input for each example, or several windows of it."""
        contexts: dict[str, tuple[list[int], list[Span | None]]] = {}
        found: list[Row] = []
        for place, example in enumerate(examples):
            if example.context not in contexts:
                contexts[example.context] = with_spans(tokenizer, example.context)
            found += self._windows(tokenizer, place, example, *contexts[example.context], length)
        return found

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
        if room < min(_SHORTEST_WINDOW, len(ids)):
            raise UsageError(
                f"question {example.question[:30]!r}… leaves {max(room, 0)} of {length} tokens for the paragraph, "
                "so it is too long for this model."
            )
        begin = 0
        while True:
            end = min(begin + room, len(ids))
            offsets = (*[None] * len(before), *spans[begin:end], *[None] * len(after))
            inputs: dict[str, Any] = {"input_ids": [*before, *ids[begin:end], *after]}
            inputs["attention_mask"] = [1] * len(offsets)
            if types is not None:
                inputs["token_type_ids"] = (
                    types[: len(before)] + types[len(before) + begin :][: len(offsets) - len(before)]
                )
            first, last = _tokens_of(offsets, example.start, example.start + len(example.answers[0]))
            yield Row({**inputs, "start_positions": first, "end_positions": last}, place, offsets)
            if end == len(ids):
                return
            begin += max(room - self.stride, room // 2)

    def predictions(self, rows: Sequence[Row], logits: Any, data: Splits, examples: Sequence[Any]) -> list[Any]:
        """The best span of each example as text."""
        starts, ends = logits
        best: dict[int, tuple[float, str]] = {}
        for row, start, end in zip(rows, starts, ends, strict=True):
            score, span = best_span(start, end, row.offsets, self.longest_answer)
            text = examples[row.example].context[span[0] : span[1]]
            if row.example not in best or score > best[row.example][0]:
                best[row.example] = (score, text)
        return [best[place][1] for place in range(len(examples))]

    def gold(self, example: Any) -> Any:
        """All right answers."""
        return list(example.answers)

    def scores(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float | None]:
        """Means of exact match and of F1, from 0 to 1."""
        exact = [
            max(float(normalized(found) == normalized(answer)) for answer in example.answers)
            for example, found in zip(examples, predictions, strict=True)
        ]
        overlap = [
            max(character_f1(found, answer) for answer in example.answers)
            for example, found in zip(examples, predictions, strict=True)
        ]
        return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(overlap))}


def best_span(start: np.ndarray, end: np.ndarray, offsets: Sequence[Span | None], longest: int) -> tuple[float, Span]:
    """The span whose first and last tokens have the greatest sum of logits.

    Args:
        start: `(tokens,)` logits of the first token; what is behind the offsets is padding.
        end: `(tokens,)` logits of the last one.
        offsets: of the tokens; None for those that are no answer.
        longest: tokens of an answer at most.

    Returns:
        The sum, and where the answer begins and ends in the text.
    """
    barred = np.array([-np.inf if span is None else 0.0 for span in offsets])
    start, end = start[: len(offsets)] + barred, end[: len(offsets)] + barred
    best, span = -np.inf, (0, 0)
    for width in range(min(longest, len(offsets))):
        sums = start[: len(offsets) - width] + end[width:]
        place = int(sums.argmax())
        first, last = offsets[place], offsets[place + width]
        if sums[place] > best and first is not None and last is not None:
            best, span = float(sums[place]), (first[0], last[1])
    return best, span


def normalized(answer: str) -> str:
    """An answer as it is compared, by the steps of JGLUE's own script and in their order."""
    return " ".join(answer.lower().rstrip("。").split())


def character_f1(found: str, answer: str) -> float:
    """Harmonic mean of precision and recall of characters, each counted as often as it occurs."""
    one, other = normalized(found), normalized(answer)
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))


def _around(ids: list[int], context: list[int]) -> tuple[list[int], list[int]]:
    """What a tokenizer puts before and after the paragraph of a pair."""
    for begin in range(len(ids) - len(context), -1, -1):
        if ids[begin : begin + len(context)] == context:
            return ids[:begin], ids[begin + len(context) :]
    raise UsageError("the model's tokenizer cuts the second text of a pair in another way than a text alone.")


def _tokens_of(offsets: Sequence[Span | None], begin: int, end: int) -> tuple[int, int]:
    """First and last token of a part of the text; the first token of all where it is not wholly there."""
    inside = [place for place, span in enumerate(offsets) if span is not None and span[0] < end and span[1] > begin]
    if not inside:
        return 0, 0
    first, last = offsets[inside[0]], offsets[inside[-1]]
    whole = first is not None and last is not None and first[0] <= begin and last[1] >= end
    return (inside[0], inside[-1]) if whole else (0, 0)


def _questions(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Questions of a file as the Hub's rows have them."""
    for article in squad(path):
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                answers = asked.get("answers") or []
                yield (
                    f"{path}, question {asked.get('id')}",
                    {
                        "question": asked.get("question"),
                        "context": paragraph["context"],
                        "answers": {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")},
                    },
                )


def _example(place: str, row: dict[str, Any]) -> Question:
    try:
        question, context = row["question"], row["context"]
        texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
    except (KeyError, TypeError) as error:
        raise UsageError(f"{place}: not in SQuAD's layout ({error}).") from None
    if not isinstance(question, str) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise UsageError(f"{place}: there must be a question, and an answer that is a text.")
    start = (
        starts[0] if isinstance(starts[0], int) and context.startswith(texts[0], starts[0]) else context.find(texts[0])
    )
    if start < 0:
        raise UsageError(f"{place}: answer {texts[0]!r} does not stand in its paragraph.")
    return Question(question, context, tuple(texts), start)
