"""Interface of the layouts: how rows of the user's data become examples of one type of task."""

from __future__ import annotations

import ast
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar

from llm_jp_modernbert.core.errors import UsageError

from ..head_task import HeadTask
from ..options import FinetuneOptions
from .tables import Row, Table, cell, listed

TEXT_NAMES = ("text", "sentence", "content", "document", "review", "comment")
PAIR_NAMES = (
    ("sentence1.sentence", "sentence2.sentence"),
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("premise", "hypothesis"),
    ("sentence_a", "sentence_b"),
    ("text_a", "text_b"),
    ("question1", "question2"),
    ("query", "passage"),
    ("question", "context"),
    ("text", "text_pair"),
)


class Columns:
    """Finds the columns of a table by options, or by their names."""

    def __init__(self, options: Any, option: str, table: Table) -> None:
        """Stores the arguments.

        Args:
            options: object with an attribute `ROLE_column` for each role.
            option: the option that names the table's source.
            table: the rows.
        """
        self.options, self.option, self.table = options, option, table

    def find(self, role: str, names: Sequence[str]) -> str | None:
        """The column of a role: the one that its option names, or the first of `names` that exists."""
        given = getattr(self.options, f"{role}_column")
        if isinstance(given, str):
            self.check(given, _option_name(role))
            return given
        by_name = {column.lower(): column for column in reversed(self.table.columns)}
        return next((by_name[name] for name in names if name in by_name), None)

    def require(self, role: str, names: Sequence[str]) -> str:
        """Like `find`; raises a `UsageError` that lists the columns if there is none."""
        column = self.find(role, names)
        if column is None:
            raise self.missing(f"no column {listed(names)}", f"Set {_option_name(role)}.")
        return column

    def missing(self, what: str, way_out: str) -> UsageError:
        """The error for a column that is not found by its name."""
        columns = listed(self.table.columns)
        return UsageError(f"{self.option} {self.table.name} has {what}; its columns are {columns}. {way_out}")

    def check(self, column: str, option: str) -> None:
        """Raises a `UsageError` if a column that an option names does not exist."""
        if column not in self.table.columns:
            raise self.missing(f"no column {column!r}", f"Correct {option}.")


class Layout(Columns, ABC):
    """Columns of the user's data, and how each row becomes an example.

    Attributes:
        columns: role → column.
    """

    roles: ClassVar[tuple[str, ...]]
    """Column options that apply, without `_column`."""

    def __init__(self, options: FinetuneOptions, option: str, table: Table) -> None:
        """Finds the columns of the training examples.

        Raises:
            UsageError: a column is missing.
        """
        super().__init__(options, option, table)
        self.columns: dict[str, str] = {}
        for role in ("text", "text_pair", "label", "question", "context", "choice"):
            if getattr(options, f"{role}_column") and role not in self.roles:
                raise UsageError(f"{_option_name(role)} does not apply to {options.kind}.")
        self.find_columns()

    @abstractmethod
    def find_columns(self) -> None:
        """Fills `columns`."""

    @abstractmethod
    def parse(self, row: Row) -> Any:
        """Makes an example of a row.

        Raises:
            ValueError: a value is invalid; the message says which one.
        """

    @abstractmethod
    def task(self, examples: Sequence[Any]) -> HeadTask[Any]:
        """The type of task with the labels of the training examples.

        Raises:
            ValueError: nothing can be learned from the examples.
        """

    def labels(self, example: Any) -> tuple[str, ...]:
        """Names of the labels of an example, which training must contain."""
        return ()

    def stratum(self, example: Any) -> str:
        """The label whose share the held-out examples keep; empty if there is none."""
        return ""

    @abstractmethod
    def key(self, example: Any) -> Hashable:
        """The input of an example without its label; equal ones are the same example twice."""

    def used_columns(self) -> list[str]:
        """Columns that all parts must have."""
        return list(self.columns.values())

    def group(self, example: Any) -> Hashable:
        """Examples of one group are held out together."""
        return self.key(example)

    def remarks(self, examples: Mapping[str, Sequence[Any]]) -> list[str]:
        """Lines for the user about the examples of each part."""
        return []


def parse_rows(
    option: str, table: Table, columns: Sequence[str], parse: Callable[[Row], Any], remarks: list[str]
) -> tuple[list[Any], list[str]]:
    """Parses all rows that are not blank in `columns`.

    Returns:
        The results and their places. The number of blank rows is added to `remarks`.

    Raises:
        UsageError: a row is invalid, or all are blank.
    """
    examples, places = [], []
    for place, row in table.rows:
        if all(is_blank(cell(row, column)) for column in columns):
            continue
        try:
            examples.append(parse(row))
        except ValueError as error:
            raise UsageError(f"{place}: {error}.") from None
        places.append(place)
    if not examples:
        raise UsageError(f"{option} {table.name}: all rows are blank.")
    if blank := len(table.rows) - len(examples):
        remarks.append(f"{option} {table.name}: {blank:,} blank row{'s' if blank > 1 else ''} skipped.")
    return examples, places


def text_of(row: Row, column: str) -> str:
    """The text of a column; raises a `ValueError` if it is empty or not a text."""
    value = cell(row, column)
    if is_blank(value):
        raise ValueError(f"{column!r} is empty. Remove the row, or write its text")
    if not isinstance(value, str):
        raise ValueError(f"{column!r} is {shortened(value)}, not a text")
    return value


def is_blank(value: Any) -> bool:
    """Whether a cell is empty or white space."""
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def as_list(value: Any) -> list[Any] | None:
    """A list, which CSV files have as text in the form of JSON or of Python; None for other values."""
    if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]"):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(value.strip())
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return value if isinstance(value, list) else None


def shortened(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _option_name(role: str) -> str:
    return f"--{role.replace('_', '-')}-column"
