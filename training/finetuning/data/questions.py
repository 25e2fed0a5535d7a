"""Layout of question answering: questions, passages and answers."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from ..qa import Question, QuestionAnswering
from .layout import Layout, is_blank, shortened, text_of
from .squad import answer_start
from .tables import Row, cell

_QUESTION_NAMES = ("question", "query")
_CONTEXT_NAMES = ("context", "passage", "paragraph", "document", "text")
_ANSWER_NAMES = ("answers", "answer", "answer_text", "label")
_START_NAMES = ("answer_start", "start")
_LONGEST = 99
"""Percentile of the lengths of answers that limits predicted answers."""


class QuestionLayout(Layout):
    """Rows of SQuAD and of similar datasets.

    Answers are `{"text": […], "answer_start": […]}`, a list of such objects or of texts, or one text; then a column
    `answer_start` may hold the start. An empty one means that the passage does not answer the question.
    """

    roles = ("question", "context", "label")

    def find_columns(self) -> None:
        names = {"question": _QUESTION_NAMES, "context": _CONTEXT_NAMES, "label": _ANSWER_NAMES}
        self.columns = {role: self.require(role, candidates) for role, candidates in names.items()}
        self.start_column = next((name for name in _START_NAMES if name in self.table.columns), None)
        self.corrected = self.ambiguous = 0

    def parse(self, row: Row) -> Question:
        question, context = (text_of(row, self.columns[role]) for role in ("question", "context"))
        start = None if self.start_column is None else cell(row, self.start_column)
        impossible = cell(row, "is_impossible")
        answers = [] if impossible is True else _answers(cell(row, self.columns["label"]), start)
        starts = []
        for text, given in answers:
            begin = answer_start(context, text, given)
            self.corrected += given not in (None, begin)
            self.ambiguous += given is None and context.find(text, begin + 1) >= 0
            starts.append(begin)
        return Question(question, context, tuple(text for text, _ in answers), starts[0] if starts else 0)

    def task(self, examples: Sequence[Question]) -> QuestionAnswering:
        lengths = [len(answer) for example in examples for answer in example.answers]
        if not lengths:
            raise ValueError(f"none of the {len(examples)} questions has an answer")
        # Few tokens are shorter than a character.
        longest = max(QuestionAnswering.longest_answer, int(np.percentile(lengths, _LONGEST)))
        threshold = None if all(example.answers for example in examples) else 0.0
        return QuestionAnswering(longest_answer=longest, no_answer_threshold=threshold)

    def key(self, example: Question) -> Hashable:
        return example.question, example.context

    def group(self, example: Question) -> Hashable:
        return example.context

    def remarks(self, examples: Mapping[str, Sequence[Question]]) -> list[str]:
        unanswered = {part: sum(not example.answers for example in values) for part, values in examples.items()}
        counts = ", ".join(f"{count:,} of {len(examples[part]):,} ({part})" for part, count in unanswered.items())
        lines = [f"Questions without an answer in their passage: {counts}."] if any(unanswered.values()) else []
        if self.corrected:
            lines.append(f"{self.corrected:,} starts of answers were wrong and are those of the nearest occurrence.")
        if self.ambiguous:
            lines.append(
                f"{self.ambiguous:,} answers without a start occur several times in their passage; the first "
                "occurrence is used."
            )
        return lines


def _answers(value: Any, start: Any) -> list[tuple[str, int | None]]:
    """Answers that are not blank, each with its start if it is given."""
    if isinstance(value, dict):
        return _answers(value.get("text"), value.get("answer_start", value.get("start")))
    if isinstance(value, list):
        starts = start if isinstance(start, list) else [start]
        if len(starts) > max(len(value), 1):
            raise ValueError(f"{len(value)} answers have {len(starts)} starts")
        return [answer for pair in zip_longest(value, starts[: len(value)]) for answer in _answers(*pair)]
    if is_blank(value):
        return []
    if not isinstance(value, str):
        raise ValueError(f"the answer {shortened(value)} is not a text")
    if isinstance(start, list):
        start = start[0] if start else None
    if is_blank(start):
        return [(value, None)]
    if isinstance(start, bool) or not re.fullmatch(r"-?\d{1,9}", str(start).strip(), re.ASCII):
        raise ValueError(f"the start {shortened(start)} of an answer is not an integer")
    return [(value, int(start))]
