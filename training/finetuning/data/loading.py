"""Load the user's data: read, check, and hold out a tenth of the training examples if none validate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace

from llm_jp_modernbert.core.errors import UsageError

from ..options import FinetuneOptions
from ..text import MultiLabelClassification
from .choices import ChoiceLayout
from .dataset import TEST, TRAIN, VALIDATION, Dataset, Examples
from .entities import EntityLayout
from .layout import Layout, parse_rows
from .questions import QuestionLayout
from .tables import Table, listed, read_table
from .texts import ClassificationLayout, RegressionLayout

_LAYOUTS: dict[str, type[Layout]] = {
    "classification": ClassificationLayout,
    "pair-classification": ClassificationLayout,
    "regression": RegressionLayout,
    "ner": EntityLayout,
    "qa": QuestionLayout,
    "multiple-choice": ChoiceLayout,
}
_FEWEST_HELD_OUT = 2
"""Correlations need two examples."""


def load_dataset(options: FinetuneOptions) -> Dataset:
    """Reads and checks all parts of the data.

    Blank rows are skipped and counted. A row with a label but without a text, or the reverse, is an error: it is a
    mistake that nobody wants to train on. Without `--validation`, a seeded tenth of the training examples is held
    out; it has the label shares of the whole, and equal texts are never on both sides.

    Raises:
        UsageError: the data are missing or invalid; the message names the file and the row.

    Example:
        >>> dataset = load_dataset(FinetuneOptions("classification", "ORG/NAME", train=["reviews.csv"]))
        >>> len(dataset.parts["train"].examples), dataset.task.labels
        (1800, ('negative', 'positive'))
    """
    if not options.train:
        raise UsageError("--train is missing. Name the file of the training examples.")
    tables: dict[str, Table] = {}
    for part in (TRAIN, VALIDATION, TEST):
        sources = getattr(options, part)
        if sources:
            split = getattr(options, f"{part}_split")
            tables[part] = read_table(f"--{part}", sources, options.kind, split, options.config_name)
    layout = _LAYOUTS[options.kind](options, f"--{TRAIN}", tables[TRAIN])
    remarks: list[str] = []
    if tables[TRAIN].unused and VALIDATION not in tables:
        remarks.append(tables[TRAIN].unused_remark())
    parts = {part: _examples(layout, part, table, remarks) for part, table in tables.items()}
    try:
        task = layout.task(parts[TRAIN].examples)
    except ValueError as error:
        raise UsageError(f"--train {parts[TRAIN].name}: {error}.") from None
    for part in (VALIDATION, TEST):
        if part in parts:
            _check_labels(layout, part, parts)
            remarks += _leaks(layout, part, parts)
    if VALIDATION not in parts:
        train, validation = _hold_out(layout, parts[TRAIN], options.seed)
        parts = {**parts, TRAIN: train, VALIDATION: validation}
    parts = {part: parts[part] for part in (TRAIN, VALIDATION, TEST) if part in parts}
    for part in list(parts)[1:]:
        remarks += _missing_labels(layout, part, parts)
    remarks += layout.remarks({part: data.examples for part, data in parts.items()})
    return Dataset(task, parts, layout.columns, isinstance(task, MultiLabelClassification), tuple(remarks))


def _examples(layout: Layout, part: str, table: Table, remarks: list[str]) -> Examples:
    """Parses all rows that are not blank."""
    for column in layout.used_columns():
        if column not in table.columns:
            raise UsageError(
                f"--{part} {table.name} has no column {column!r}, unlike the training examples; its columns are "
                f"{listed(table.columns)}."
            )
    examples, places = parse_rows(f"--{part}", table, layout.used_columns(), layout.parse, remarks)
    return Examples(table.name, table.revision, examples, places)


def _check_labels(layout: Layout, part: str, parts: dict[str, Examples]) -> None:
    known = {label for example in parts[TRAIN].examples for label in layout.labels(example)}
    unknown: dict[str, str] = {}
    for example, place in zip(parts[part].examples, parts[part].places, strict=True):
        for label in layout.labels(example):
            if label not in known:
                unknown.setdefault(label, place)
    if unknown:
        names = ", ".join(repr(label) for label in list(unknown)[:5]) + (" and more" if len(unknown) > 5 else "")
        raise UsageError(
            f"{next(iter(unknown.values()))}: the training examples lack {len(unknown)} of the labels of --{part}: "
            f"{names}."
        )


def _leaks(layout: Layout, part: str, parts: dict[str, Examples]) -> list[str]:
    """Remarks about examples that also occur in an earlier part."""
    remarks = []
    for earlier in (TRAIN, VALIDATION):
        if earlier not in parts or earlier == part:
            continue
        seen = {layout.key(example) for example in parts[earlier].examples}
        examples, places = parts[part].examples, parts[part].places
        repeated = [place for example, place in zip(examples, places, strict=True) if layout.key(example) in seen]
        if repeated:
            remarks.append(
                f"{len(repeated):,} of {len(examples):,} {part} examples are also {earlier} examples (the first is "
                f"{repeated[0]}), so scores on them are too high."
            )
    return remarks


def _missing_labels(layout: Layout, part: str, parts: dict[str, Examples]) -> list[str]:
    """A remark about labels of the training examples that another part lacks."""
    known, present = (
        {label for example in parts[name].examples for label in layout.labels(example)} for name in (TRAIN, part)
    )
    missing = sorted(known - present)
    if not missing:
        return []
    return [f"The {part} examples lack the labels {listed(missing)}, so its scores say nothing about them."]


def _hold_out(layout: Layout, data: Examples, seed: int) -> tuple[Examples, Examples]:
    """Splits off a tenth of the groups; training keeps an example of every label."""
    from sklearn.model_selection import train_test_split

    groups: dict[Hashable, list[int]] = {}
    for index, example in enumerate(data.examples):
        groups.setdefault(layout.group(example), []).append(index)
    members = list(groups.values())
    strata = ["\t".join(sorted({layout.stratum(data.examples[index]) for index in indices})) for indices in members]
    if is_stratified := any(strata):
        counts = Counter(strata)
        kept = {number for number, stratum in enumerate(strata) if counts[stratum] < 2}
    else:
        labels = [
            (label, number)
            for number, indices in enumerate(members)
            for index in indices
            for label in layout.labels(data.examples[index])
        ]
        # Reversed, so that the first group of each label remains.
        kept = set(dict(reversed(labels)).values())
    pool = [number for number in range(len(members)) if number not in kept]
    stratify = [strata[number] for number in pool]
    size = max(-(-len(pool) // 10), len(set(stratify)), _FEWEST_HELD_OUT)
    if len(pool) < 2 * size:
        raise UsageError(
            f"--train {data.name}: {len(members):,} different texts are too few to hold some out for validation; "
            f"{2 * size + len(kept):,} are needed{', two of each label' if is_stratified else ''}. Name a "
            "--validation file, or add examples."
        )
    _, held_out = train_test_split(pool, test_size=size, random_state=seed, stratify=stratify)
    chosen = {index for number in held_out for index in members[number]}
    remaining = [index for index in range(len(data.examples)) if index not in chosen]
    return _selected(data, remaining), _selected(data, sorted(chosen))


def _selected(data: Examples, indices: Sequence[int]) -> Examples:
    examples, places = ([values[index] for index in indices] for values in (data.examples, data.places))
    return replace(data, examples=examples, places=places)
