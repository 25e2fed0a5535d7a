"""Layouts of classification, regression and pair classification."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

from ..head_task import HeadTask
from ..text import Classification, MultiLabelClassification, Regression, Texts
from .layout import PAIR_NAMES, TEXT_NAMES, Layout, as_list, shortened, text_of
from .tables import Row, cell

_LABEL_NAMES = ("label", "labels", "gold_label", "category", "class", "target")
_SCORE_NAMES = ("score", "label", "labels", "similarity", "similarity_score", "rating", "stars", "target", "value")


class TextLayout(Layout):
    """Base of the layouts of one text or a pair with a label."""

    roles = ("text", "text_pair", "label")

    label_names: tuple[str, ...] = _LABEL_NAMES
    """Default columns of the label."""

    def find_columns(self) -> None:
        kind, options = self.options.kind, self.options
        text = self.find("text", () if kind == "pair-classification" else TEXT_NAMES)
        pair = self.find("text_pair", ())
        if kind == "pair-classification" or (kind == "regression" and text is None):
            names = {column.lower(): column for column in self.table.columns}
            default = next((both for both in PAIR_NAMES if names.keys() >= set(both)), None)
            if default is not None:
                # One that an option names stays.
                text, pair = text or names[default[0]], pair or names[default[1]]
        if pair is None and (kind == "pair-classification" or (text is None and options.kind == "regression")):
            pairs = ", ".join("/".join(both) for both in PAIR_NAMES if "." not in both[0])
            raise self.missing(f"no pair of columns {pairs}", "Set --text-column and --text-pair-column.")
        text = text or self.require("text", TEXT_NAMES)
        self.columns = {"text": text, **({"text_pair": pair} if pair else {})}
        self.columns["label"] = self.require("label", self.label_names)

    def texts(self, row: Row) -> tuple[str, ...]:
        """The text or the pair of a row."""
        return tuple(text_of(row, self.columns[role]) for role in ("text", "text_pair") if role in self.columns)

    def key(self, example: Texts) -> Hashable:
        return example.texts


class RegressionLayout(TextLayout):
    """One text or a pair, and a number."""

    label_names = _SCORE_NAMES

    def parse(self, row: Row) -> Texts:
        value = cell(row, self.columns["label"])
        try:
            score = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            score = math.nan
        if not math.isfinite(score):
            raise ValueError(f"{self.columns['label']!r} is {shortened(value)}, not a finite number")
        return Texts(self.texts(row), score)

    def task(self, examples: Sequence[Texts]) -> HeadTask[Any]:
        if len({example.label for example in examples}) < 2:
            raise ValueError(f"all {len(examples)} examples have the score {examples[0].label}")
        return Regression()


class ClassificationLayout(TextLayout):
    """One text or a pair, and a label or a list of labels.

    The examples have several labels each if the training examples have lists of labels, unless all have exactly one.
    A list may also be written as text in JSON or as Python does, as in CSV files.
    """

    def find_columns(self) -> None:
        super().find_columns()
        column = self.columns["label"]
        lists = [as_list(cell(row, column)) for _, row in self.table.rows if row]
        self.are_lists = any(names is not None for names in lists)
        self.multi_label = any(names is not None and len(names) != 1 for names in lists)

    def parse(self, row: Row) -> Texts:
        column = self.columns["label"]
        value = cell(row, column)
        names = as_list(value)
        if self.are_lists:
            if names is None:
                raise ValueError(f"{column!r} is {shortened(value)}, but other rows have lists of labels")
            labels = tuple(dict.fromkeys(label_name(name, column) for name in names))
            if self.multi_label:
                return Texts(self.texts(row), labels)
            if len(labels) != 1:
                raise ValueError(f"{column!r} has {len(labels)} labels, but the training examples have one each")
            value = labels[0]
        return Texts(self.texts(row), label_name(value, column))

    def task(self, examples: Sequence[Texts]) -> HeadTask[Any]:
        labels = sorted_labels({label for example in examples for label in self.labels(example)})
        if len({example.label for example in examples}) < 2:
            label = f"the label {labels[0]!r}" if labels else "no label"
            raise ValueError(f"all {len(examples)} examples have {label}. Classification needs two labels or more")
        return MultiLabelClassification(labels) if self.multi_label else Classification(labels)

    def labels(self, example: Texts) -> tuple[str, ...]:
        return example.label if isinstance(example.label, tuple) else (str(example.label),)

    def stratum(self, example: Texts) -> str:
        return "" if self.multi_label else str(example.label)


def label_name(value: Any, column: str) -> str:
    """The name of a label that is a text, a number or a Boolean.

    Raises:
        ValueError: the label is missing, or of another type.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError(f"{column!r} is {shortened(value)}, not a label")
    name = "" if value is None else str(value).strip()
    if name.lower() in ("", "nan"):
        raise ValueError(f"{column!r} is empty or NaN. Remove the row, or write its label")
    return name


def sorted_labels(labels: set[str]) -> tuple[str, ...]:
    """Labels in order: by value if all are numbers."""
    try:
        return tuple(sorted(labels, key=lambda label: (float(label), label)))
    except ValueError:
        return tuple(sorted(labels))
