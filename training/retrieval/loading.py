"""Load the data of a retrieval training: read, check, and hold out a tenth if no file validates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.references import ModelReference

from ..finetuning.data.layout import parse_rows
from ..finetuning.data.tables import Row, cell, listed, read_table
from .columns import PASSAGE_NAMES, TEXT_NAMES, RetrievalColumns, passage_text
from .dataset import Example, Form, Part, RetrievalData
from .holding_out import halves, hold_out, selected, without_negatives
from .kinds import FORM_NAMES
from .options import RerankerOptions, RetrievalOptions


def load_data(options: RetrievalOptions, forms: tuple[Form, ...]) -> RetrievalData:
    """Reads and checks all parts of the data; negatives are not mined yet, and no teacher scores them.

    Blank rows are skipped and counted. Equal examples are used once. Without `--validation`, a seeded tenth of the
    training examples is held out, so that no query and no passage is on both sides. If scores are not between 0 and
    1, they are mapped to it by the range of the training scores.

    Args:
        options: options of the command.
        forms: forms that the type of model learns from.

    Raises:
        UsageError: the data are missing or invalid; the message names the file and the row.

    Example:
        >>> data = load_data(EmbedderOptions("ORG/NAME", train=["jaquad_train_0000.json.gz"]), ("pairs", "triplets"))
        >>> data.train.form, data.columns
        ('pairs', {'query': 'question', 'passage': 'context'})
    """
    if not options.train:
        raise UsageError("--train is missing. Name the file of the training pairs.")
    _check_models(options)
    remarks: list[str] = []
    table = read_table("--train", options.train, "retrieval", options.train_split, options.config_name)
    if table.unused and not options.validation:
        remarks.append(table.unused_remark())
    columns = RetrievalColumns(options, "--train", table)
    _check_form(options, columns, forms)
    train = _part("--train", columns, remarks)
    sources = [("--validation", options.validation)] if options.validation else []
    sources += [("--test", [source]) for source in options.test]
    measured = [_measured(options, option, files, remarks) for option, files in sources]
    corpus, corpus_revision = _corpus(options, remarks)
    for (option, _), part in zip(sources, measured, strict=True):
        remarks += _leaks(option, part, train)
    train, *measured = _scaled([train, *measured], remarks)
    if options.validation:
        validation, *tests = measured
    else:
        tests = measured
        train, validation = hold_out(train, options.seed, remarks)
    train = _equal_negatives(train, remarks)
    return RetrievalData(train, validation, tests, corpus, corpus_revision, columns.columns, remarks)


def trained_form(options: RetrievalOptions, form: Form) -> Form:
    """The form of the training examples after negatives are mined and a teacher has scored them.

    Args:
        options: options of the command.
        form: form of the user's data.

    Raises:
        UsageError: an option does not apply to this form.
    """
    if options.mine_negatives:
        if form != "pairs":
            raise UsageError(
                f"--mine-negatives adds negatives to {FORM_NAMES['pairs']}, but --train has "
                f"{FORM_NAMES[form]}. Leave it out, or remove the other columns."
            )
        form = "triplets"
    if options.teacher is not None:
        if form == "pairs":
            raise UsageError(
                "--teacher scores relevant passages and negatives, which --train lacks. Add "
                "--mine-negatives 7, or columns of negatives."
            )
        if form != "triplets":
            raise UsageError(
                f"--teacher scores {FORM_NAMES['triplets']}, but --train has {FORM_NAMES[form]}. Leave it out."
            )
        form = "distillation"
    return form


def _check_models(options: RetrievalOptions) -> None:
    """Raises a `UsageError` if another model that an option names is not a model, or is not used."""
    if options.mine_with is not None and not options.mine_negatives:
        raise UsageError("--mine-with names the embedder that mines negatives. Set --mine-negatives as well.")
    candidates = options.candidates if isinstance(options, RerankerOptions) and options.candidates != "bm25" else None
    for name in (options.mine_with, options.teacher, candidates):
        if name is not None:
            ModelReference.parse(name).check_model()


def _check_form(options: RetrievalOptions, columns: RetrievalColumns, forms: tuple[Form, ...]) -> None:
    form = trained_form(options, columns.form)
    if form not in forms:
        used = ", ".join(f"{role} {column!r}" for role, column in columns.columns.items())
        known = ", ".join(FORM_NAMES[known] for known in forms)
        raise UsageError(
            f"--train {columns.table.name} has {FORM_NAMES[columns.form]} (columns: {used}), but {options.kind} "
            f"models learn from: {known}."
        )


def _part(option: str, columns: RetrievalColumns, remarks: list[str]) -> Part:
    table = columns.table
    rows, row_places = parse_rows(option, table, columns.used(), columns.parse, remarks)
    examples = list(chain.from_iterable(rows))
    places = [place for row, place in zip(rows, row_places, strict=True) for _ in row]
    part = Part(table.name, table.revision, columns.form, examples, places)
    if option == "--train" and len(scores := {score for example in examples for score in example.scores}) == 1:
        raise UsageError(
            f"--train {table.name}: all scores in {listed(columns.scores)} are {scores.pop():g}, so there is "
            "nothing to learn. Remove the column to train without scores."
        )
    return _without_own_positives(option, _distinct(option, part, remarks), remarks)


def _measured(options: RetrievalOptions, option: str, sources: Sequence[str], remarks: list[str]) -> Part:
    """A part to measure on. Columns that options name apply if it has them; texts become pairs of their halves."""
    split = options.validation_split if option == "--validation" else options.test_split
    table = read_table(option, sources, "retrieval", split, options.config_name)
    known: dict[str, Any] = {
        name: None
        for name in ("query_column", "passage_column", "score_column")
        if getattr(options, name) not in table.columns
    }
    known["negative_column"] = [column for column in options.negative_column if column in table.columns]
    part = _part(option, RetrievalColumns(replace(options, **known), option, table), remarks)
    return halves(part) if part.form == "texts" else part


def _corpus(options: RetrievalOptions, remarks: list[str]) -> tuple[tuple[str, ...], str]:
    """The distinct passages of `--corpus`, each after its title if it has one, as BEIR has them; their revision."""
    if not options.corpus:
        return (), ""
    table = read_table("--corpus", options.corpus, "retrieval", "train")
    named = {column.lower(): column for column in reversed(table.columns)}
    column = next((named[name] for name in (*TEXT_NAMES, *PASSAGE_NAMES) if name in named), None)
    if column is None:
        raise UsageError(
            f"--corpus {table.name} has no column {listed(TEXT_NAMES)}; its columns are {listed(table.columns)}. "
            "Rename the column of the passages."
        )

    def parse(row: Row) -> str:
        value = cell(row, column)
        return passage_text({"title": cell(row, "title"), "text": value} if isinstance(value, str) else value, column)

    texts, _ = parse_rows("--corpus", table, [column], parse, remarks)
    return tuple(dict.fromkeys(texts)), table.revision


def _distinct(option: str, part: Part, remarks: list[str]) -> Part:
    """Removes equal examples, and pairs of equal texts, which teach nothing."""
    seen = set[Example]()
    kept, repeated, equal = list[int](), list[int](), list[int]()
    for index, example in enumerate(part.examples):
        if part.form in ("pairs", "triplets") and example.query == example.passages[0]:
            equal.append(index)
        elif example in seen:
            repeated.append(index)
        else:
            seen.add(example)
            kept.append(index)
    for indices, what in ((repeated, "repeat earlier ones"), (equal, "have the same text as query and passage")):
        if indices:
            remarks.append(
                f"{option} {part.name}: {len(indices):,} of {len(part.examples):,} examples {what} (the first is "
                f"{part.places[indices[0]]}) and are left out."
            )
    if not kept:
        raise UsageError(f"{option} {part.name}: all examples have the same text as query and passage.")
    return selected(part, kept)


def _without_own_positives(option: str, part: Part, remarks: list[str]) -> Part:
    """Removes negatives that are relevant passages of the same query."""
    if part.form not in ("triplets", "distillation"):
        return part
    relevant: dict[str, set[str]] = {}
    for example in part.examples:
        relevant.setdefault(example.query, set()).add(example.passages[0])
    examples = [without_negatives(example, relevant[example.query]) for example in part.examples]
    changed = [index for index, example in enumerate(examples) if example != part.examples[index]]
    for index in changed:
        if len(examples[index].passages) < 2:
            raise UsageError(
                f"{part.places[index]}: its negatives are also relevant passages of the query. Correct the row."
            )
    if changed:
        remarks.append(
            f"{option} {part.name}: negatives of {len(changed):,} examples (the first is {part.places[changed[0]]}) "
            "are also relevant passages of their query; these negatives are left out."
        )
    return replace(part, examples=examples)


def _leaks(option: str, part: Part, train: Part) -> list[str]:
    """Remarks about queries and relevant passages that are also training texts."""
    sides = {
        "queries": ({example.query for example in train.examples}, [example.query for example in part.examples]),
        "passages": (
            set(chain.from_iterable(example.passages for example in train.examples)),
            [example.passages[0] for example in part.examples],
        ),
    }
    remarks = []
    for side, (known, texts) in sides.items():
        repeated = [place for text, place in zip(texts, part.places, strict=True) if text in known]
        if repeated:
            remarks.append(
                f"{option} {part.name}: the {side} of {len(repeated):,} of {len(texts):,} examples are also training "
                f"{side} (the first is {repeated[0]}), so scores on them may be too high."
            )
    return remarks


def _scaled(parts: Sequence[Part], remarks: list[str]) -> list[Part]:
    """Maps the scores of pairs by the range of the first part that has them, unless it is within 0 to 1."""
    scored = [part for part in parts if part.form == "scored"]
    if not scored:
        return list(parts)
    scores = [example.scores[0] for example in scored[0].examples]
    low, high = min(scores), max(scores)
    if min(low, 1 - high) >= 0:
        return list(parts)
    remarks.append(f"Scores from {low:g} to {high:g} are mapped to 0 to 1.")
    return [
        replace(part, examples=[_mapped(example, low, high) for example in part.examples])
        if part.form == "scored"
        else part
        for part in parts
    ]


def _mapped(example: Example, low: float, high: float) -> Example:
    return replace(example, scores=((example.scores[0] - low) / ((high - low) or 1.0),))


def _equal_negatives(train: Part, remarks: list[str]) -> Part:
    """Cuts or repeats negatives to the number that most examples have."""
    if train.form not in ("triplets", "distillation"):
        return train
    counts = Counter(len(example.passages) - 1 for example in train.examples)
    number = counts.most_common(1)[0][0]
    if len(counts) == 1:
        return train
    remarks.append(
        f"--train {train.name}: most examples have {number} negatives, so all get {number}: "
        f"{sum(counts[count] for count in counts if count > number):,} examples lose their last ones, and "
        f"{sum(counts[count] for count in counts if count < number):,} repeat theirs."
    )
    return replace(train, examples=[_with_negatives(example, number) for example in train.examples])


def _with_negatives(example: Example, number: int) -> Example:
    kept = [0, *(1 + index % (len(example.passages) - 1) for index in range(number))]
    scores = tuple(example.scores[index] for index in kept) if example.scores else ()
    return replace(example, passages=tuple(example.passages[index] for index in kept), scores=scores)
