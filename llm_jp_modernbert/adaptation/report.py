"""Tables of an adaptation, for the terminal and for report.md, and its plot."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from llm_jp_modernbert.core.plots import legend_below, panels_of, save, style, use_log_scale_if_wide
from llm_jp_modernbert.core.tables import MISSING, REPORT, Table, write_page
from llm_jp_modernbert.training.report import counted, device_line
from llm_jp_modernbert.training.run.adaptation import Change, Estimate, Measured, Record

from .job import HELD_OUT, Job
from .measuring import ACCURACY, MASKED_SHARE, PERPLEXITY, POSITIONS, WINDOW
from .recipe import base_learning_rate, replay_share, tokens_per_epoch
from .texts import Corpus

ASSETS = "assets"
PLOT = "adaptation.png"

_NAMES = {PERPLEXITY: "pseudo-perplexity", ACCURACY: "masked accuracy (%)"}
_NOT_MEASURED = "Forgetting was not measured. To measure it, name general text with --general or --replay."


def start_lines(job: Job) -> Iterator[str]:
    """The texts, the base, the recipe and the device, before the training."""
    yield from _facts(job)
    if job.texts.general is None:
        yield f"\nNote: {_NOT_MEASURED}"


def _facts(job: Job) -> Iterator[str]:
    """One line per fact."""
    base, recipe, texts = job.base, job.recipe, job.texts
    yield f"base: {base.reference} ({base.revision[:15]})"
    yield f"train: {_described(texts.train)}"
    if texts.replay is not None:
        yield f"replay: {texts.replay.name}, {100 * replay_share(job.options):g} % of the training text"
    for name, held_out in job.held_out.items():
        origin = {"train": ", held out of --train", "replay": ", held out of --replay", "file": ""}
        yield f"{name}: {counted(len(job.windows[name]), 'document')} of {held_out.name}{origin[held_out.held_out_of]}"
    peak = base_learning_rate(job.stages)
    share = "" if peak is None else f", {recipe.learning_rate / peak:g} × the peak of the base's pre-training"
    yield f"learning rate: {recipe.learning_rate:g}{share}"
    if recipe.max_steps > 0:
        tokens = recipe.max_steps * recipe.rows_per_step * recipe.sequence_length
        epochs = tokens / tokens_per_epoch(job.options, texts)
        yield f"length: {counted(recipe.max_steps, 'step')}, {epochs:.3g} passes over the texts of --train"
    yield f"rows of {recipe.sequence_length:,} tokens, {100 * recipe.mlm_probability:g} % of them masked"
    precision = "bfloat16" if recipe.bf16 else "float16" if recipe.fp16 else "float32"
    yield f"device: {device_line(recipe.device, recipe.world_size)}, {precision}"


def _described(corpus: Corpus) -> str:
    return f"{corpus.name}, {counted(corpus.documents, 'document')}, about {corpus.tokens:,.0f} tokens"


def measured_texts(record: Record) -> dict[str, Measured]:
    """The measurements by name of the texts."""
    texts = {"domain": record["domain"], "general": record["general"]}
    return {name: measured for name, measured in texts.items() if measured is not None}


def change_table(record: Record) -> Table:
    """Both metrics of the base and of the model, and the change with its interval."""
    rows = []
    for metric, title in _NAMES.items():
        for name, measured in measured_texts(record).items():
            change = measured["metrics"][metric]
            values = (_figure(metric, change[part]["value"]) for part in ("before", "after"))
            rows.append((title, name, *values, _change(metric, change["change"]), _interval(metric, change)))
    return Table("Held-out texts", ("metric", "text", "before", "after", "change", "95 % interval"), rows, names=2)


def _interval_table(record: Record) -> Table:
    rows = []
    for metric, title in _NAMES.items():
        for name, measured in measured_texts(record).items():
            estimates = (measured["metrics"][metric]["before"], measured["metrics"][metric]["after"])
            bounds = (
                MISSING if own["low"] is None else f"{_figure(metric, own['low'])} to {_figure(metric, own['high'])}"
                for own in estimates
            )
            rows.append((title, name, *bounds, f"{measured['documents']:,}"))
    return Table("95 % intervals", ("metric", "text", "before", "after", "documents"), rows, names=2)


def _figure(metric: str, value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{100 * value:.1f}" if metric == ACCURACY else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _change(metric: str, change: Estimate) -> str:
    return _points(change["value"]) if metric == ACCURACY else f"× {change['value']:.3g}"


def _interval(metric: str, change: Change) -> str:
    low, high = change["change"]["low"], change["change"]["high"]
    if low is None or high is None:
        return MISSING
    return f"{_points(low)} to {_points(high)}" if metric == ACCURACY else f"{low:.3g} to {high:.3g}"


def _points(share: float) -> str:
    # Adding zero turns -0.0 into 0.0.
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _notes(record: Record) -> Iterator[str]:
    yield "Pseudo-perplexity: lower is better. Intervals: bootstrap over documents."
    general = record["general"]
    if general is None:
        yield _NOT_MEASURED
        return
    change = general["metrics"][PERPLEXITY]["change"]
    low, high = change["low"], change["high"]
    if low is not None and high is not None:
        grown = f"{abs(100 * (change['value'] - 1)):.0f} %"
        result = "no clear change of pseudo-perplexity on general text."
        if low > 1:
            result = f"pseudo-perplexity of general text grew by {grown}."
        elif high < 1:
            result = f"none: pseudo-perplexity of general text fell by {grown}."
        yield f"Forgetting: {result}"


def end_lines(out: Path, record: Record) -> Iterator[str]:
    """The measurements, the place of the model and the next steps."""
    folder = shlex.quote(str(out))
    yield f"\n{change_table(record).text()}\n"
    yield from _notes(record)
    yield f"The model is in {out}; {REPORT} in it has all tables and plots."
    yield f"  try it:     llm-jp-modernbert fill-mask {folder} TEXT"
    yield f"  use it:     llm-jp-modernbert finetune TASK {folder} --train FILE"
    yield f"  publish it: llm-jp-modernbert release {folder} --repo ORG/NAME"


def write_report(folder: Path, job: Job, record: Record) -> None:
    """Writes report.md and the plot.

    Args:
        folder: the model's directory.
        job: the adaptation.
        record: its record.
    """
    (folder / ASSETS).mkdir(exist_ok=True)
    with style():
        _draw(folder / ASSETS / PLOT, record)
    facts = [*_facts(job), f"epochs: {record['epochs']:.3g} in {record['seconds']:,.0f} seconds", *_notes(record)]
    closing = (
        f"Both models see the same windows of at most {WINDOW} tokens of the documents in `{HELD_OUT}/`. "
        f"Pseudo-perplexity masks {POSITIONS} tokens of each, one at a time; masked accuracy masks "
        f"{100 * MASKED_SHARE:g} % of them together."
    )
    tables = (change_table(record), _interval_table(record))
    write_page(folder / REPORT, job.folder.out.name, facts, tables, folder / ASSETS, closing)


def _draw(path: Path, record: Record) -> None:
    """A panel per metric with the values before and after."""
    figure, panels = panels_of(len(_NAMES))
    for axes, (metric, title) in zip(panels, _NAMES.items(), strict=True):
        factor = 100 if metric == ACCURACY else 1
        drawn: list[float] = []
        for name, measured in measured_texts(record).items():
            change = measured["metrics"][metric]
            points = [_point(own, factor) for own in (change["before"], change["after"])]
            values, below, above = zip(*points, strict=True)
            axes.errorbar((0, 1), values, (below, above), marker="o", ms=5, capsize=3, label=f"{name} text")
            drawn += values
        axes.set_xticks((0, 1), ("before", "after"))
        axes.set_xlim(-0.3, 1.3)
        axes.set_title(f"{title}, with 95 % interval", fontsize=9)
        if not use_log_scale_if_wide(axes, drawn):
            axes.set_ylim(bottom=0)
    legend_below(figure, panels[0])
    save(figure, path)


def _point(estimate: Estimate, factor: float) -> tuple[float, float, float]:
    """A value, and how far its interval extends below and above it."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    below, above = value - (value if low is None else low), (value if high is None else high) - value
    return factor * value, factor * max(0.0, below), factor * max(0.0, above)
