"""Table, plot, result rows and report of a changed vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_jp_modernbert.core.plots import legend_below, panels_of, save, style
from llm_jp_modernbert.core.results import Measurement, Results, Run
from llm_jp_modernbert.core.tables import MISSING, REPORT, Table, percentage, write_page

from .measuring import MASKED_SHARE
from .record import TASK, Figures, Record

ASSETS, RESULTS = "assets", "results"
PLOT = "vocabulary.png"

_SHARE = "share"
_METRICS = (
    ("characters per token", "characters_per_token", ".3f"),
    ("tokens per character", "tokens_per_character", ".3f"),
    ("loss per character, nats", "loss_per_character", ".3f"),
    ("masked accuracy, %", "masked_accuracy", _SHARE),
    ("accuracy, same spans, %", "span_accuracy", _SHARE),
    ("restored exactly, %", "round_trips", _SHARE),
)
_MOST_TERMS = 1000
_SHOWN_TERMS = 12


def write_rows(
    folder: Path, record: Record, names: Sequence[tuple[str, str]], measured: Sequence[list[Measurement]]
) -> None:
    """Writes the result rows of the model before and after.

    Args:
        folder: directory of the new model.
        record: its record.
        names: name and revision of each model.
        measured: measurements of each model.
    """
    held_out = record["held_out"]
    for (name, revision), measurements in zip(names, measured, strict=True):
        run = Run(
            task=TASK,
            model=name,
            revision=revision,
            protocol="default",
            settings={
                "masked_share": MASKED_SHARE,
                "change": record["change"],
                "base_revision": record["base_revision"],
            },
            seed=record["seed"],
            dataset=held_out["name"],
            dataset_revision=held_out["revision"],
            split="held-out",
            examples=held_out["documents"],
        )
        Results(folder / RESULTS).write(run, measurements)


def table(record: Record) -> Table:
    """The figures before and after."""
    before, after = record["before"], record["after"]
    rows = [
        _row("tokens in the vocabulary", before["tokens"], after["tokens"], ",.0f"),
        _row("parameters", before["parameters"], after["parameters"], ",.0f"),
        _row("weights, MB", before["weights_bytes"] / 1e6, after["weights_bytes"] / 1e6, ",.1f"),
        _row("tokenizer.json, MB", before["tokenizer_bytes"] / 1e6, after["tokenizer_bytes"] / 1e6, ",.1f"),
    ]
    for name, metric, form in _METRICS:
        low, high = record.get("changes", {}).get(metric, (None, None))
        interval = MISSING if low is None or high is None else f"{_signed(100 * low)} to {_signed(100 * high)}"
        rows.append((*_row(name, before.get(metric), after.get(metric), form)[:4], interval))  # type: ignore[arg-type]
    return Table("Before and after", ("on held-out text", "before", "after", "change", "95 % interval"), rows)


def _row(name: str, before: float | None, after: float | None, form: str) -> tuple[str, ...]:
    if before is None or after is None:
        return name, MISSING, MISSING, MISSING, MISSING
    if form == _SHARE:
        return name, percentage(before), percentage(after), _signed(100 * (after - before)), ""
    return name, format(before, form), format(after, form), f"{_signed(100 * (after / before - 1))} %", ""


def _signed(value: float) -> str:
    # Adding zero removes the sign of -0.0.
    return f"{round(value, 1) + 0.0:+.1f}"


def facts(record: Record) -> Iterator[str]:
    """One line per fact."""
    texts, held_out = record["texts"], record["held_out"]
    yield f"base: {record['base']} ({record['base_revision'][:15]})"
    yield f"texts: {texts['name']}, {texts['documents']:,} documents, {texts['characters']:,} characters"
    yield f"held out: {held_out['name']}, {held_out['documents']:,} documents, {held_out['characters']:,} characters"
    if record["change"] == "trim":
        yield f"removed: {record['removed']:,} tokens"
    else:
        shown = ", ".join(term.replace("▁", "␣") for term in record["terms"][:_SHOWN_TERMS])
        yield f"added: {len(record['terms']):,} tokens: {shown}{', …' if len(record['terms']) > _SHOWN_TERMS else ''}"
    ratio = record["after"]["tokens_per_character"] / record["before"]["tokens_per_character"]
    yield f"the same text has {abs(100 * (ratio - 1)):.1f} % {'more' if ratio > 1 else 'fewer'} tokens to compute"


def draw(folder: Path, record: Record, uses: npt.NDArray[Any], others: Sequence[int]) -> None:
    """Draws which share of the uses the tokens cover, and the parameters.

    Args:
        folder: directory of the new model.
        record: its record.
        uses: uses of each token before (trim), or tokens that each new one saves (extend).
        others: parameters that are not per token, before and after.
    """
    is_trim = record["change"] == "trim"
    covered = np.cumsum(np.sort(uses)[::-1]) / max(1, uses.sum())
    (folder / ASSETS).mkdir(exist_ok=True)
    with style():
        figure, (curve, bars) = panels_of(2)
        curve.plot(np.arange(1, len(covered) + 1), 100 * covered)
        if is_trim:
            size = record["after"]["tokens"]
            curve.axvline(size, c="C1", ls="--", label=f"{size:,} tokens stay")
            curve.set_xscale("log")
            curve.legend(fontsize=7)
        curve.set_xlabel("most used tokens" if is_trim else "new tokens, most useful first")
        curve.set_ylabel("share of the texts' tokens, %" if is_trim else "share of the saved tokens, %")
        totals = np.array([record["before"]["parameters"], record["after"]["parameters"]]) / 1e6
        rest = np.array(others) / 1e6
        bars.bar(("before", "after"), totals - rest, bottom=rest, color="C0", label="vocabulary")
        bars.bar(("before", "after"), rest, color="C2", label="other layers")
        bars.set_ylabel("parameters, millions")
        legend_below(figure, bars)
        save(figure, folder / ASSETS / PLOT)


def write_report(folder: Path, name: str, record: Record, remarks: Sequence[str]) -> None:
    """Writes report.md."""
    tables = [table(record)]
    if record["terms"]:
        rows = [(term.replace("▁", "␣"),) for term in record["terms"][:_MOST_TERMS]]
        tables.append(Table("New tokens", ("token",), rows))
    closing = (
        f"Both models see the same held-out text, of which the same spans are masked ({MASKED_SHARE:.0%}). Values per "
        "character and of the same spans compare the vocabularies; the masked accuracy is per token of each. The "
        "intervals are those of the change, bootstrapped over documents."
    )
    write_page(folder / REPORT, name, [*facts(record), *remarks], tables, folder / ASSETS, closing)


def figures(measurements: Sequence[Measurement], **sizes: int) -> Figures:
    """The figures of a model from its measurements and sizes."""
    values: dict[str, Any] = {measurement.metric: measurement.value for measurement in measurements}
    optional = dict.fromkeys(("masked_accuracy", "span_accuracy", "loss_per_character"))
    result: Figures = {**optional, **values, **sizes}  # type: ignore[typeddict-item]
    return result
