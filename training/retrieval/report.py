"""Tables of the data and of the scores of a retrieval model, for the terminal and for report.md."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from llm_jp_modernbert.core.results import Row
from llm_jp_modernbert.core.tables import MISSING, REPORT, Table, percentage, write_page

from ..finetuning.finetune.plots import ASSETS
from ..finetuning.finetune.report import MOST_PLACES, device_fact, listed_too_long
from ..finetuning.record import ERRORS
from .job import Job
from .kinds import FORM_NAMES
from .measuring import mean_of_tests
from .options import RerankerOptions
from .record import Record, task_of

MEAN = "mean of tests"

_CLASSES = {
    "embedder": "SentenceTransformer",
    "reranker": "CrossEncoder",
    "sparse": "SparseEncoder",
    "late-interaction": "MultiVectorEncoder",
}
_FACTS = {
    "bytes_per_passage": "bytes of a passage in the index, float32 without compression",
    "query_active_dims": "dimensions of a query that are not zero",
    "passage_active_dims": "dimensions of a passage that are not zero",
    "flops": "multiplications for a query and a passage (FLOPS)",
}


def start_lines(job: Job) -> Iterator[str]:
    """The data, the base and the device, before the training."""
    yield from _facts(job)
    yield f"\n{_data_table(job).text()}"
    yield from (f"\nNote: {remark}" for remark in (*job.data.remarks, *_too_long(job)))
    first, last = job.options.seed, job.options.seed + job.options.seeds - 1
    yield f"\nTraining with {f'seed {first}' if first == last else f'seeds {first} to {last}'}"


def _facts(job: Job) -> Iterator[str]:
    """One line per fact: task, base, data, device."""
    options, base, form = job.options, job.base, job.data.train.form
    yield f"task: {options.kind}, trained on {FORM_NAMES[form]}"
    yield f"base: {base.reference} ({base.revision[:15]}), {base.parameters:,} parameters"
    yield f"loss: {job.kind.loss_name(form)}"
    if not isinstance(options, RerankerOptions):
        for role, prompt in job.kind.prompts(form).items():
            yield f"{role} prompt: {json.dumps(prompt, ensure_ascii=False) if prompt else 'none'}"
    yield f"columns: {', '.join(f'{role} = {column}' for role, column in job.data.columns.items()) or 'none'}"
    for name, part in job.parts.items():
        held_out = name == "validation" and not options.validation
        yield f"{name}: {part.name}{' (held out)' if held_out else ''}"
    if options.mine_negatives:
        yield f"negatives: {options.mine_negatives} per pair, mined with {options.mine_with or 'the base'}"
    if options.teacher:
        yield f"teacher: {options.teacher}"
    if isinstance(options, RerankerOptions):
        yield f"candidates: {options.candidates}"
    yield device_fact(job.arguments)
    yield f"maximum length: {base.max_length:,} tokens"


def _data_table(job: Job) -> Table:
    """Examples, passages to search among, and lengths of the inputs by part."""
    rows = []
    for name, lengths in job.lengths.items():
        tokens = np.concatenate(lengths)
        figures = (np.median(tokens), np.percentile(tokens, 95), tokens.max())
        benchmark = job.benchmarks.get(name)
        is_search = benchmark is not None and not benchmark.is_scored
        passages = f"{len(benchmark.search.corpus):,}" if benchmark is not None and is_search else MISSING
        shown = (f"{round(float(figure)):,}" for figure in figures)
        rows.append((name, f"{len(lengths):,}", passages, *shown, f"{len(job.too_long(name)):,}"))
    columns = ("part", "examples", "passages", "median tokens", "95 %", "longest", "truncated")
    return Table("Data", columns, rows)


def _too_long(job: Job) -> Iterator[str]:
    places = {part: job.too_long(part) for part in job.parts}
    yield from listed_too_long(places, job.base.max_length, "their end is not read", MOST_PLACES)


def kept_rows(record: Record, rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """Rows of the kept model and the baselines by part and name of the system, then by metric, the main one first.

    Args:
        record: the record of the model.
        rows: all its result rows.
    """
    baselines = [baseline["name"] for baseline in record["baselines"]]
    names = {(name.partition(":")[0], part["name"], part["revision"]): name for name, part in record["parts"].items()}
    kept: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        # Users may add results of other tasks.
        if row.seed == record["best_seed"] and row.task == task_of(record["kind"]):
            key = names[row.split, row.dataset, row.dataset_revision], row.model
            kept.setdefault(key, {})[row.metric] = row
    order = {name: place for place, name in enumerate(baselines)}
    parts = list(record["parts"])
    return dict(sorted(kept.items(), key=lambda item: (parts.index(item[0][0]), order.get(item[0][1], -1))))


def main_row(rows: Mapping[str, Row]) -> Row:
    """The row of the main metric, which is the first one."""
    return next(iter(rows.values()))


def score_tables(record: Record, rows: Sequence[Row], metrics: Sequence[str] = ()) -> list[Table]:
    """Tables of all systems, one for rankings and one for scored pairs; the mean of several test datasets is last.

    Args:
        record: the record of the model.
        rows: all its result rows.
        metrics: metrics to show in addition to the main one; all by default.
    """
    by_metric: dict[str, dict[tuple[str, str], dict[str, Row]]] = {}
    for key, of_system in kept_rows(record, rows).items():
        shown = {name: row for place, (name, row) in enumerate(of_system.items()) if not place or name in metrics}
        by_metric.setdefault(main_row(of_system).metric, {})[key] = shown if metrics else of_system
    return [_score_table(kept) for kept in by_metric.values()]


def _score_table(kept: Mapping[tuple[str, str], Mapping[str, Row]]) -> Table:
    lines: list[tuple[str, ...]] = []
    for (part, system), rows in kept.items():
        main, *others = rows.values()
        interval = f"{percentage(main.low)} to {percentage(main.high)}" if main.low is not None else MISSING
        lines.append((part, system, percentage(main.value), interval, *(percentage(row.value) for row in others)))
    names = list(next(iter(kept.values())))
    for system in dict.fromkeys(system for _, system in kept):
        scores = {
            part: {name: row.value for name, row in rows.items()}
            for (part, name), rows in kept.items()
            if name == system
        }
        if mean := mean_of_tests(scores):
            main_value, *values = (percentage(mean.get(name)) for name in names)
            lines.append((MEAN, system, main_value, MISSING, *values))
    main_name, *other_names = names
    return Table("Scores × 100", ("part", "system", main_name, "95 % interval", *other_names), lines, names=2)


def _seeds_line(record: Record) -> str | None:
    """Mean and standard deviation over seeds on validation."""
    values = [seed["metrics"]["validation"].get(record["metric"]) for seed in record["seeds"]]
    defined = [value for value in values if value is not None]
    if len(defined) < 2:
        return None
    spread = f"{percentage(statistics.fmean(defined))} ± {percentage(statistics.stdev(defined))}"
    return (
        f"Seed {record['best_seed']} of {len(values)} is kept. "
        f"{record['metric']} on validation over seeds: {spread} (mean ± sd)."
    )


def _tables_of_model(record: Record) -> Iterator[Table]:
    """Truncated embeddings, and the size of the index."""
    if by_length := record.get("by_length"):
        last = list(record["parts"])[-1]
        lines = [(length, percentage(value)) for length, value in by_length.items()]
        yield Table(f"Truncated embeddings on {last} × 100", ("dimensions", "ndcg@10"), lines)
    if index := record.get("index"):
        facts = [(_FACTS.get(name, name), _mean_number(value)) for name, value in index.items()]
        yield Table("Index", ("mean number of", "value"), facts)


def _mean_number(value: float) -> str:
    """With one decimal, unless it is an integer."""
    return f"{value:,.1f}".removesuffix(".0")


def end_lines(folder: Path, record: Record, rows: Sequence[Row]) -> Iterator[str]:
    """The scores, the place of the model and the next steps.

    Args:
        folder: directory of the model.
        record: its record.
        rows: its result rows.
    """
    quoted = shlex.quote(str(folder))
    for table in score_tables(record, rows, ("mrr@10", "pearson")):
        yield f"\n{table.text()}"
    if seeds := _seeds_line(record):
        yield f"\n{seeds}"
    for name, value in record.get("index", {}).items():
        yield f"{_FACTS.get(name, name)}: {_mean_number(value)}"
    yield f"The model is in {folder}; {REPORT} in it has all tables and plots."
    loaded = f"{_CLASSES[record['kind']]}({json.dumps(str(folder), ensure_ascii=False)})"
    yield f"  use it:     sentence_transformers.{loaded}"
    yield f"  publish it: llm-jp-modernbert release {quoted} --repo ORG/NAME"


def write_report(folder: Path, job: Job, record: Record, rows: Sequence[Row]) -> None:
    """Writes report.md: the tables of the terminal, complete, and the plots."""
    facts = [*_facts(job), *job.data.remarks, *_too_long(job)]
    if seeds := _seeds_line(record):
        facts.append(seeds)
    tables = [_data_table(job), *score_tables(record, rows), *_tables_of_model(record)]
    worst = (
        "pairs whose score differs most from that of the data"
        if job.benchmarks["validation"].is_scored
        else "queries whose relevant passage ranks worst"
    )
    closing = f"The {worst} are in {ERRORS}."
    write_page(folder / REPORT, job.folder.out.resolve().name, facts, tables, folder / ASSETS, closing)
