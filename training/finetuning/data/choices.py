"""Layout of multiple choice: a question, its choices, and which one is right."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any

from ..multiple_choice import MultipleChoice
from ..text import Texts
from .layout import TEXT_NAMES, Layout, as_list, is_blank, shortened, text_of
from .tables import Row, cell
from .texts import label_name

_QUESTION_NAMES = ("question", "query", "prompt", *TEXT_NAMES)
_LABEL_NAMES = ("label", "labels", "answer", "gold_label", "correct")
_NUMBERED = re.compile(r"(?:choice|option|ending|answer)[ _-]?(\d+)", re.IGNORECASE)
_LIST_NAMES = ("choices", "options", "endings")


class ChoiceLayout(Layout):
    """Choices in one column each, or in a column of lists.

    The label is the position of the right choice, from 0; its text; or the name of its column.
    """

    roles = ("question", "choice", "label")

    def find_columns(self) -> None:
        self.choices = self.options.choice_column or self._numbered()
        for column in self.choices:
            self.check(column, "--choice-column")
        if not self.choices:
            listed = [column for column in self.table.columns if column.lower() in _LIST_NAMES]
            if not listed:
                wanted = ", ".join(map(repr, ("choice0", "choice1", *_LIST_NAMES)))
                raise self.missing(f"no columns of choices ({wanted})", "Set --choice-column, once per choice.")
            self.choices = listed[:1]
        question, label = self.require("question", _QUESTION_NAMES), self.require("label", _LABEL_NAMES)
        self.columns = {"question": question, "choice": ", ".join(self.choices), "label": label}
        rows = [row for _, row in self.table.rows if row]
        # Most of them, so that the error for another value names its row.
        self.are_numbers = sum(_number(cell(row, label)) is not None for row in rows) * 2 > len(rows)
        self.names = tuple(self.choices)
        if len(self.choices) == 1:
            count = len(as_list(cell(rows[0], self.choices[0])) or ())
            self.names = tuple(f"choice{number}" for number in range(count))

    def _numbered(self) -> list[str]:
        columns = [column for column in self.table.columns if _NUMBERED.fullmatch(column)]
        prefix = columns[0].rstrip("0123456789") if columns else ""
        columns = [column for column in columns if column.rstrip("0123456789") == prefix]
        return sorted(columns, key=lambda column: int(column.removeprefix(prefix))) if len(columns) > 1 else []

    def used_columns(self) -> list[str]:
        return [self.columns["question"], *self.choices, self.columns["label"]]

    def parse(self, row: Row) -> Texts:
        question = text_of(row, self.columns["question"])
        if len(self.choices) == 1:
            values = as_list(cell(row, self.choices[0]))
            if values is None or not all(isinstance(value, str) and not is_blank(value) for value in values):
                raise ValueError(f"{self.choices[0]!r} is {shortened(values)}, not a list of texts")
            choices = tuple(values)
        else:
            choices = tuple(text_of(row, column) for column in self.choices)
        if len(choices) != len(self.names):
            raise ValueError(f"has {len(choices)} choices, but the first training example has {len(self.names)}")
        return Texts((question, *choices), self.names[self._position(cell(row, self.columns["label"]), choices)])

    def _position(self, value: Any, choices: tuple[str, ...]) -> int:
        column = self.columns["label"]
        name = label_name(value, column)
        if self.are_numbers:
            number = _number(value)
            if number is None or number >= len(choices):
                raise ValueError(f"{column!r} is {shortened(value)}, not a position from 0 to {len(choices) - 1}")
            return number
        if name in self.names:
            return self.names.index(name)
        matching = [number for number, choice in enumerate(choices) if choice.strip() == name]
        if len(matching) != 1:
            raise ValueError(f"{column!r} is {shortened(value)}, which is {len(matching) or 'none'} of the choices")
        return matching[0]

    def task(self, examples: Sequence[Texts]) -> MultipleChoice:
        if len(self.names) < 2:
            raise ValueError("two choices or more are needed")
        return MultipleChoice(self.names)

    def stratum(self, example: Texts) -> str:
        return str(example.label)

    def key(self, example: Texts) -> Hashable:
        return example.texts


def _number(value: Any) -> int | None:
    """A position from 0, which CSV files have as text."""
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}(\.0)?", str(value).strip(), re.ASCII):
        return None
    return int(float(value))
