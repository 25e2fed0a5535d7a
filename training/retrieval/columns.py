"""Columns of queries, passages, negatives and scores, and how a row becomes examples."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ..finetuning.data.layout import Columns, as_list, is_blank, shortened, text_of
from ..finetuning.data.tables import Row, Table, cell, listed
from .dataset import Example, Form
from .options import RetrievalOptions

_QUERY_NAMES = (
    "query",
    "question",
    "anchor",
    "sentence1.sentence",
    "sentence1",
    "text1",
    "premise",
    "sentence_a",
    "text_a",
    "question1",
    "title",
)
PASSAGE_NAMES = (
    "positive",
    "positives",
    "pos",
    "positive_passages",
    "passage",
    "passages",
    "document",
    "docs",
    "context",
    "paragraph",
    "answer",
    "response",
    "sentence2.sentence",
    "sentence2",
    "text2",
    "hypothesis",
    "sentence_b",
    "text_b",
    "question2",
    "text",
    "content",
)
_QUERY_EXAMPLES = "'query', 'question', 'anchor' or the like"
_PASSAGE_EXAMPLES = "'positive', 'passage', 'context' or the like"
TEXT_NAMES = ("text", "sentence", "content", "document", "passage", "context", "paragraph", "review", "comment")
"""Default columns of texts alone."""
_SCORE_NAMES = ("score", "scores", "teacher_scores", "label", "labels", "similarity", "similarity_score", "relevance")
_NEGATIVE = re.compile(r"(?:hard[ _-]?)?neg(?:ative)?s?(?:[ _-]?passages?)?(?:[ _-]?(\d+))?", re.IGNORECASE)
_SCORE_LISTS = ("pos_scores", "neg_scores")


class RetrievalColumns(Columns):
    """Columns of a table in one of the forms of `dataset.Form`.

    Passages may be texts, objects with `text` and perhaps `title`, or lists of them, which CSV files have as text in
    the form of JSON. A row with several relevant passages becomes an example for each.

    Attributes:
        form: form of the examples.
        columns: role → column.
    """

    def __init__(self, options: RetrievalOptions, option: str, table: Table) -> None:
        """Finds the columns.

        Raises:
            UsageError: a column is missing.
        """
        super().__init__(options, option, table)
        self.query, self.passage = self.find("query", _QUERY_NAMES), None
        named = {name: column for name, column in self._by_name().items() if column != self.query}
        if options.passage_column is not None:
            self.passage = self.find("passage", ())
        elif self.query is not None:
            self.passage = next((named[name] for name in PASSAGE_NAMES if name in named), None)
        self.negatives = self._negative_columns()
        self.scores = self._score_columns()
        self._check_both_texts()
        self.form: Form = self._form()
        used = {"query": self.query, "passage": self.passage}
        used |= {"negative": ", ".join(self.negatives), "score": ", ".join(self.scores)}
        self.columns = {role: column for role, column in used.items() if column}
        if self.form == "texts":
            self.columns = {"text": str(self.query)}

    def _by_name(self) -> dict[str, str]:
        return {column.lower(): column for column in reversed(self.table.columns)}

    def _negative_columns(self) -> list[str]:
        for column in self.options.negative_column:
            self.check(column, "--negative-column")
        found = {column: match for column in self.table.columns if (match := _NEGATIVE.fullmatch(column))}
        return self.options.negative_column or sorted(found, key=lambda column: int(found[column][1] or 0))

    def _score_columns(self) -> tuple[str, ...]:
        """The column of scores. Beside negatives, a column that is found by its name holds lists of scores."""
        if self.options.score_column is not None:
            return (str(self.find("score", ())),)
        if self.negatives and set(_SCORE_LISTS) <= set(self.table.columns):
            return _SCORE_LISTS
        column = self.find("score", _SCORE_NAMES)
        if column is None or (self.negatives and as_list(self._first(column)) is None):
            return ()
        return (column,)

    def _first(self, column: str) -> Any:
        """The first value of a column that is not blank."""
        return next((cell(row, column) for _, row in self.table.rows if not is_blank(cell(row, column))), None)

    def _check_both_texts(self) -> None:
        """Checks that both texts have a column, or finds that of texts alone."""
        if self.passage is not None:
            if self.query is None:
                raise self.missing(f"no column of queries ({_QUERY_EXAMPLES})", "Set --query-column.")
            if self.query == self.passage:
                raise self.missing(f"one column, {self.query!r}, for both texts", "Correct --passage-column.")
            return
        if self.options.query_column is None:
            if self.query not in (None, "title"):
                raise self.missing(
                    f"no column of passages ({_PASSAGE_EXAMPLES})",
                    f"Set --passage-column, or --query-column {self.query} to train on this text alone.",
                )
            named = self._by_name()
            self.query = next((named[name] for name in TEXT_NAMES if name in named), self.query)
        if self.query is None:
            raise self.missing(
                f"no columns of queries ({_QUERY_EXAMPLES}) and passages ({_PASSAGE_EXAMPLES})",
                "Set --query-column and --passage-column, or --query-column alone to train on texts.",
            )

    def _form(self) -> Form:
        if self.passage is None:
            return "texts"
        if self.negatives:
            return "distillation" if self.scores else "triplets"
        if not self.scores:
            return "pairs"
        scores = as_list(self._first(self.scores[0]))
        if scores is None:
            return "scored"
        # A list of passages and their scores. Labels 0 and 1 only say which are relevant.
        rows = [as_list(cell(row, self.scores[0])) or [] for _, row in self.table.rows]
        return "triplets" if all(score in (0, 1) for scores in rows for score in scores) else "distillation"

    def used(self) -> list[str]:
        """All columns that are read."""
        columns = [self.query, self.passage, *self.negatives, *self.scores] if self.form != "texts" else [self.query]
        return [column for column in columns if column]

    def parse(self, row: Row) -> list[Example]:
        """Makes examples of a row.

        Raises:
            ValueError: a value is invalid; the message says which one.
        """
        query = text_of(row, str(self.query))
        if self.passage is None:
            return [Example(query)]
        positives = _texts(row, self.passage)
        if not positives:
            raise ValueError(f"{self.passage!r} is empty. Remove the row, or write its text")
        if self.form == "scored":
            if len(positives) != 1:
                raise ValueError(f"{self.passage!r} has {len(positives)} texts, but {self.scores[0]!r} is one score")
            return [Example(query, (positives[0],), (_number(cell(row, self.scores[0]), self.scores[0]),))]
        if self.form == "pairs":
            return [Example(query, (positive,)) for positive in positives]
        if not self.negatives:
            return self._list(query, positives, row)
        negatives = [text for column in self.negatives for text in _texts(row, column)]
        if not negatives:
            raise ValueError(f"{listed(self.negatives)} has no negative. Remove the row, or write one")
        if self.form == "triplets":
            return [Example(query, (positive, *negatives)) for positive in positives]
        scores = [score for column in self.scores for score in _numbers(row, column)]
        self._check_count(scores, len(positives) + len(negatives))
        shared = tuple(scores[len(positives) :])
        scored = zip(positives, scores, strict=False)
        return [Example(query, (positive, *negatives), (score, *shared)) for positive, score in scored]

    def _list(self, query: str, passages: list[str], row: Row) -> list[Example]:
        """Examples of a list of passages with a score for each."""
        scores = _numbers(row, self.scores[0])
        self._check_count(scores, len(passages))
        ranked = sorted(zip(scores, passages, strict=True), key=lambda pair: -pair[0])
        if self.form == "distillation":
            if len(ranked) < 2:
                raise ValueError(f"{self.passage!r} has one passage. Scores of a teacher need two or more to compare")
            return [Example(query, tuple(text for _, text in ranked), tuple(score for score, _ in ranked))]
        positives, negatives = ([text for score, text in ranked if score == label] for label in (1, 0))
        if not positives or not negatives:
            raise ValueError(f"{self.scores[0]!r} has no {0 if positives else 1}. Remove the row, or complete it")
        return [Example(query, (positive, *negatives)) for positive in positives]

    def _check_count(self, scores: Sequence[float], passages: int) -> None:
        if len(scores) != passages:
            raise ValueError(f"{listed(self.scores)} has {len(scores)} scores for {passages} passages")


def _texts(row: Row, column: str) -> list[str]:
    """The passages of a cell; empty if it is blank."""
    value = cell(row, column)
    values = as_list(value)
    if values is None or (isinstance(value, str) and not all(isinstance(item, (str, dict)) for item in values)):
        # A text may have brackets.
        values = [] if is_blank(value) else [value]
    return [passage_text(item, column) for item in values]


def passage_text(value: Any, column: str) -> str:
    """A passage that is a text, or an object with its title and text.

    Raises:
        ValueError: it is empty, or of another type.
    """
    if isinstance(value, dict) and "text" in value:
        title, text = value.get("title"), value["text"]
        value = f"{title} {text}" if isinstance(text, str) and isinstance(title, str) and title.strip() else text
    if is_blank(value):
        raise ValueError(f"{column!r} has an empty text. Remove it")
    if not isinstance(value, str):
        raise ValueError(f"{column!r} is {shortened(value)}, not a text")
    return value


def _numbers(row: Row, column: str) -> list[float]:
    values = as_list(cell(row, column))
    if values is None:
        raise ValueError(f"{column!r} is {shortened(cell(row, column))}, not a list with a score for each passage")
    return [_number(value, column) for value in values]


def _number(value: Any, column: str) -> float:
    try:
        # The Boolean labels of JSON are 0 and 1.
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"{column!r} is {shortened(value)}, not a finite number. Remove the column to train without scores"
        )
    return number
