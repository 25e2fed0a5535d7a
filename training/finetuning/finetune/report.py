"""Tables of the data and of the scores, for the terminal and for report.md."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.results import Row
from llm_jp_modernbert.core.tables import MISSING, REPORT, Table, percentage, write_page

from ...report import counted, device_line
from ..data.dataset import VALIDATION, Dataset, Examples
from ..head_task import HeadTask
from ..qa import QuestionAnswering
from ..record import ERRORS, Record
from ..text import Regression
from .job import Job
from .measuring import NONE, classes, label_counts
from .plots import ASSETS, class_name, measured_part

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from .folder import Finetuned

MOST_PLACES = 5
"""Examples that are named on the terminal."""

_MOST_LABELS = 20
_MOST_LISTED = 1000


def start_lines(job: Job) -> Iterator[str]:
    """The data, the base and the device, before the training."""
    yield from _facts(job)
    for table in data_tables(job):
        yield f"\n{table.text(_MOST_LABELS)}"
    yield from (f"\nNote: {remark}" for remark in (*job.dataset.remarks, *too_long_lines(job, MOST_PLACES)))
    first, last = job.options.seed, job.options.seed + job.options.seeds - 1
    yield f"\nTraining with {f'seed {first}' if first == last else f'seeds {first} to {last}'}"


def _facts(job: Job) -> Iterator[str]:
    """One line per fact: task, base, data, device."""
    options, base, arguments = job.options, job.base, job.arguments
    several = ", several labels per example" if job.dataset.multi_label else ", one label per example"
    is_classification = options.kind.endswith("classification")
    yield f"task: {options.kind}{several if is_classification else ''}"
    yield f"base: {base.reference} ({base.revision[:15]}), {base.parameters:,} parameters"
    yield f"head: {base.head_line(job.task)}"
    yield f"columns: {', '.join(f'{role} = {column}' for role, column in job.dataset.columns.items()) or 'none'}"
    for name, part in job.parts.items():
        held_out = name == VALIDATION and not options.validation
        yield f"{name}: {part.name}{' (held out)' if held_out else ''}"
    yield device_fact(arguments)
    weights = job.settings.class_weights
    if weights:
        pairs = sorted(zip(job.task.labels, weights, strict=True), key=lambda pair: -pair[1])
        shown = ", ".join(f"{label} {weight:.2f}" for label, weight in pairs[:_MOST_LABELS])
        yield f"class weights: {shown}{', …' if len(pairs) > _MOST_LABELS else ''}"
    yield f"maximum length: {base.max_length:,} tokens"


def device_fact(arguments: TrainingArguments) -> str:
    """The device and the precision of a training."""
    precision = "bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else "float32"
    return f"device: {device_line(arguments.device, arguments.world_size)}, {precision}"


def data_tables(job: Job) -> list[Table]:
    """Rows, lengths and labels of all parts."""
    rows = []
    for part in job.parts:
        tokens = job.tokens(part)
        figures = (np.median(tokens), np.percentile(tokens, 95), tokens.max())
        shown = (f"{round(float(figure)):,}" for figure in figures)
        rows.append((part, f"{len(tokens):,}", *shown, f"{len(job.too_long(part)):,}"))
    last = "in windows" if isinstance(job.task, QuestionAnswering) else "truncated"
    tables = [Table("Data", ("part", "rows", "median tokens", "95 %", "longest", last), rows)]
    labels = _label_table(job.dataset)
    return [*tables, labels] if labels is not None else tables


def _label_table(dataset: Dataset) -> Table | None:
    task, parts = dataset.task, dataset.parts
    if isinstance(task, Regression):
        return Table(
            "Scores", ("part", "lowest", "mean", "highest"), [(name, *_spread(part)) for name, part in parts.items()]
        )
    if isinstance(task, QuestionAnswering):
        rows = []
        for name, part in parts.items():
            empty = sum(not example.answers for example in part.examples)
            answers = [len(example.answers[0]) for example in part.examples if example.answers]
            length = f"{round(statistics.median(answers))}" if answers else MISSING
            rows.append((name, f"{len(part.examples) - empty:,}", f"{empty:,}", length))
        return Table("Answers", ("part", "answered", "unanswerable", "median characters"), rows)
    counts = {name: label_counts(task, part.examples) for name, part in parts.items()}
    totals = {
        name: len(parts[name].examples) if dataset.multi_label else sum(count.values())
        for name, count in counts.items()
    }
    columns = [column for part in parts for column in (part, "%")]
    lines = []
    for label in sorted(classes(task), key=lambda label: -counts["train"][label]):
        cells = []
        for name, count in counts.items():
            cells += [f"{count[label]:,}", f"{100 * count[label] / max(1, totals[name]):.1f}"]
        lines.append((label, *cells))
    title = "Labels (% of the examples)" if dataset.multi_label else _title_of_classes(task)
    return Table(title, ("label", *columns), lines)


def _title_of_classes(task: HeadTask[Any]) -> str:
    titles = {"TOKEN": "Entities by type", "MULTIPLE": "Correct choices"}
    return next((title for key, title in titles.items() if task.head.suffix.upper().startswith(f"FOR{key}")), "Labels")


def _spread(part: Examples) -> tuple[str, ...]:
    labels = [example.label for example in part.examples]
    return tuple(f"{value:,.2f}" for value in (min(labels), statistics.fmean(labels), max(labels)))


def too_long_lines(job: Job, most: int) -> Iterator[str]:
    """The examples that are longer than an input, each on a line, by part.

    Args:
        job: the fine-tuning.
        most: examples that are named.
    """
    is_qa = isinstance(job.task, QuestionAnswering)
    effect = "they are read in overlapping windows" if is_qa else "their end is not read"
    yield from listed_too_long({part: job.too_long(part) for part in job.parts}, job.base.max_length, effect, most)


def listed_too_long(places: Mapping[str, Sequence[str]], max_length: int, effect: str, most: int) -> Iterator[str]:
    """Lines about examples that are longer than an input.

    Args:
        places: the places of the examples by part.
        max_length: maximum tokens of an input.
        effect: consequence for the examples.
        most: examples that are named.
    """
    for part, of_part in places.items():
        if of_part:
            more = [f"… {len(of_part) - most:,} more"] if len(of_part) > most else []
            listed = "".join(f"\n  {place}" for place in (*of_part[:most], *more))
            yield f"{counted(len(of_part), f'{part} row')} longer than {max_length:,} tokens; {effect}.{listed}"


def score_table(record: Record, rows: Iterable[Row]) -> Table:
    """Metrics of the kept model on each part, with intervals, the simplest guess, and all seeds."""
    by_metric: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if not row.subset:
            by_metric.setdefault((row.metric, row.split), []).append(row)
    has_seeds = len(record["seeds"]) > 1
    # The metric that selects the model comes first.
    metrics = list(dict.fromkeys([record["metric"], *(metric for metric, _ in by_metric)]))
    order = [(metric, part) for metric in metrics for part in record["parts"] if (metric, part) in by_metric]
    lines = []
    for metric, part in order:
        measured = by_metric[metric, part]
        kept = next(row for row in measured if row.seed == record["best_seed"])
        values = [row.value for row in measured if row.value is not None]
        spread = ""
        if len(values) > 1:
            spread = f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f}"
        interval = f"{percentage(kept.low)} to {percentage(kept.high)}" if kept.low is not None else MISSING
        cells = (percentage(kept.value), interval, percentage(kept.baseline), *([spread] if has_seeds else []))
        lines.append((metric, part, *cells))
    seeds = ["mean ± sd"] if has_seeds else []
    return Table("Scores × 100", ("metric", "part", "score", "95 % interval", "baseline", *seeds), lines, names=2)


def class_table(record: Record) -> Table | None:
    """Scores by class on the last part measured."""
    part = measured_part(record)
    labels = [label for label in record["labels"] if "f1" in label]
    if not labels:
        return None
    name = class_name(record)
    thresholds = any("threshold" in label for label in labels)
    columns = (name, "examples", "precision", "recall", "F1", *(["threshold"] if thresholds else []))
    rows = []
    for label in sorted(labels, key=lambda label: -label["counts"].get(part, 0)):
        cells = [f"{100 * value:.1f}" for value in (label["precision"], label["recall"], label["f1"])]
        cells += [f"{label['threshold']:.2f}"] if thresholds else []
        rows.append((label["name"], f"{label['counts'].get(part, 0):,}", *cells))
    return Table(f"By {name}, on {part} × 100", columns, rows)


def confusion_table(record: Record) -> Table | None:
    """Correct classes in rows, predicted ones in columns."""
    matrix = record["confusion"]
    if matrix is None:
        return None
    names = [label["name"] for label in record["labels"]]
    names += [NONE] * (len(matrix) - len(names))
    rows = [(name, *(f"{count:,}" for count in counts)) for name, counts in zip(names, matrix, strict=True)]
    title = f"Correct (rows) and predicted {class_name(record)}s, on {measured_part(record)}"
    return Table(title, ("", *names), rows)


def end_lines(finished: Finetuned) -> Iterator[str]:
    """The scores, the place of the model and the next steps."""
    record, folder = finished.record, shlex.quote(str(finished.folder))
    for table in (score_table(record, finished.rows), class_table(record)):
        if table is not None:
            yield f"\n{table.text(_MOST_LABELS)}"
    yield f"\nThe baseline predicts {record.get('baseline', 'a constant')}. Intervals: bootstrap over examples."
    if len(record["seeds"]) > 1:
        yield f"Seed {record['best_seed']} of {len(record['seeds'])} is kept. Mean ± sd: over seeds."
    if record["multi_label"] or record["unanswerable"]:
        yield "Thresholds are tuned on validation, so its scores are slightly too high."
    yield f"The model is in {finished.folder}; {REPORT} in it has all tables and plots."
    yield f"  use it:     {_usage(record, str(finished.folder), folder)}"
    yield f"  publish it: llm-jp-modernbert release {folder} --repo ORG/NAME"


def _usage(record: Record, folder: str, quoted: str) -> str:
    if record["kind"] == "qa":
        return f"llm-jp-modernbert answer {quoted} --question QUESTION --context FILE"
    if record["kind"] == "multiple-choice":
        return f"AutoModelForMultipleChoice.from_pretrained({json.dumps(folder, ensure_ascii=False)})"
    task = "token-classification" if record["kind"] == "ner" else "text-classification"
    options = ', aggregation_strategy="simple"' if record["kind"] == "ner" else ""
    return f'pipeline("{task}", model={json.dumps(folder, ensure_ascii=False)}{options})'


def write_report(folder: Path, job: Job, record: Record, rows: Sequence[Row]) -> None:
    """Writes report.md: the tables of the terminal, complete, and the plots."""
    facts = [*_facts(job), *job.dataset.remarks, *too_long_lines(job, _MOST_LISTED)]
    tables = [*data_tables(job), score_table(record, rows), class_table(record), confusion_table(record)]
    shown = [table for table in tables if table is not None]
    closing = f"The most confidently wrong predictions are in {ERRORS}."
    write_page(folder / REPORT, job.folder.out.resolve().name, facts, shown, folder / ASSETS, closing)
