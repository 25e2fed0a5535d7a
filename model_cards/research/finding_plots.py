"""Plots of findings, titled with the statement and its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.evaluation.report.plots import legend_below, panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..facts import Estimate, Finding

_HEIGHT = 3.9
"""Height of figures with two panels, in inches."""


def by_context(
    finding: Finding,
    perplexities: Mapping[str, Mapping[int, float]],
    ratios: Mapping[int, Estimate],
    boundary: int,
    compared: tuple[str, str],
) -> Figure:
    """Pseudo-perplexity of two models by context, and its ratio.

    Args:
        finding: the finding.
        perplexities: pseudo-perplexity by model and tokens of context. Shown without intervals: these reflect how
            documents differ, not how two models differ on the same documents.
        ratios: ratios by tokens of context.
        boundary: sequence length of stage 1, in tokens.
        compared: names of numerator and denominator.
    """
    figure, (left, right) = panels_of(2, _HEIGHT)
    for (name, values), marker in zip(perplexities.items(), "os", strict=True):
        left.plot(list(values), list(values.values()), label=name, marker=marker, ms=4, lw=1.2)
    left.set_ylabel("pseudo-perplexity (lower is better)")
    right.errorbar(
        list(ratios),
        [ratio.value for ratio in ratios.values()],
        yerr=_error_bars(list(ratios.values())),
        label="ratio with 95% interval over documents",
        color="C2",
        marker="D",
        ms=4,
        lw=1.2,
        capsize=2,
    )
    right.axhline(1, color="0.4", lw=0.8)
    right.set_ylabel(f"{' ÷ '.join(compared)} (below 1: better)")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(ratios), [f"{context:,}" for context in ratios], rotation=45)
        axes.minorticks_off()
        axes.axvline(boundary, color="0.6", lw=1, ls=":")
        place: Any = {"xycoords": ("data", "axes fraction"), "va": "top", "fontsize": 7, "color": "0.4"}
        axes.annotate(" sequence length of stage 1", (boundary, 1), **place)
        axes.set_xlabel("tokens of context around the same targets")
    legend_below(figure, left, right)
    return _titled(figure, finding)


def trade_off(
    finding: Finding, names: Sequence[str], alignments: Sequence[Estimate], uniformities: Sequence[Estimate]
) -> Figure:
    """Path of the checkpoints through alignment and uniformity.

    Args:
        finding: the finding.
        names: labels of the checkpoints: stage, `step`, number.
        alignments: one per checkpoint.
        uniformities: one per checkpoint.
    """
    figure, (axes,) = panels_of(1)
    xs, ys = ([estimate.value for estimate in metric] for metric in (uniformities, alignments))
    axes.plot(xs, ys, color="0.7", lw=1, zorder=1)
    # The first checkpoint of a stage is close to the last one of the previous stage: label them on opposite sides.
    sides = cycle((((5, 5), "left"), ((-5, -9), "right")))
    stages = dict.fromkeys(name.partition(" ")[0] for name in names)
    for stage, (offset, side) in zip(stages, sides, strict=False):
        members = [index for index, name in enumerate(names) if name.partition(" ")[0] == stage]
        axes.errorbar(
            [xs[index] for index in members],
            [ys[index] for index in members],
            xerr=_error_bars([uniformities[index] for index in members]),
            yerr=_error_bars([alignments[index] for index in members]),
            fmt="o",
            ms=4,
            lw=1,
            label=f"steps of {stage}",
            zorder=2,
        )
        for index in members:
            step = names[index].rpartition(" ")[2]
            axes.annotate(step, (xs[index], ys[index]), offset, textcoords="offset points", ha=side, fontsize=7)
    # A linear scale would hide later checkpoints if training starts far from where it ends.
    if max(xs) < 0 < min(ys) and max(ys) > 20 * min(ys):
        axes.set_xscale("symlog", linthresh=-max(xs) / 2)
        axes.set_yscale("log")
        axes.set_xlim(right=max(xs) / 2)
    axes.margins(0.12)
    axes.set_xlabel("uniformity (lower is better)")
    axes.set_ylabel("alignment (lower is better)")
    legend_below(figure, axes)
    return _titled(figure, finding)


def learning_curves(
    finding: Finding,
    packed: Sequence[Mapping[str, Sequence[float]]],
    padded: Sequence[Mapping[str, Sequence[float]]],
) -> Figure:
    """Held-out loss against tokens and time, one line per seed."""
    from matplotlib.ticker import EngFormatter

    figure, panels = panels_of(2, _HEIGHT)
    curves = [*packed, *padded]
    # Losses of the first quarter would flatten the rest.
    lowest = min(curve["loss"][-1] for curve in curves)
    highest = max(curve["loss"][len(curve["loss"]) // 4] for curve in curves)
    margin = 0.1 * (highest - lowest) or 0.1
    for axes, name, unit in zip(panels, ("tokens", "seconds"), ("tokens", "seconds of training"), strict=True):
        for runs, color, label in ((packed, "C0", "packed"), (padded, "C1", "padded and truncated")):
            for index, run in enumerate(runs):
                shown = label if index == 0 else None
                axes.plot(run[name], run["loss"], color=color, lw=1, alpha=0.8, label=shown, marker=".")
        axes.set_ylim(lowest - margin, highest + margin)
        axes.set_xlabel(unit)
        axes.set_ylabel("held-out loss (lower is better)")
    panels[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    legend_below(figure, panels[0])
    return _titled(figure, finding)


def accuracies(finding: Finding, names: Sequence[str], values: Mapping[str, Sequence[Estimate]]) -> Figure:
    """Bars of top-1 accuracy, one group per checkpoint and one bar per way of reading the prompts."""
    figure, (axes,) = panels_of(1)
    height = 0.8 / len(values)
    for group, (label, estimates) in enumerate(values.items()):
        shares = [100 * estimate.value for estimate in estimates]
        ends = [100 * (estimate.value if estimate.high is None else estimate.high) for estimate in estimates]
        ys = [index + (group + 0.5) * height - 0.4 for index in range(len(names))]
        axes.barh(ys, shares, height * 0.9, label=label)
        axes.errorbar(shares, ys, xerr=100 * _error_bars(estimates), fmt="none", ecolor="0.3", lw=1)
        for y, share, end in zip(ys, shares, ends, strict=True):
            axes.text(end, y, f" {share:.1f}", va="center", fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    highest = max(
        estimate.value if estimate.high is None else estimate.high for bars in values.values() for estimate in bars
    )
    axes.set_xlim(0, min(100, 110 * highest) or 1)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("top-1 accuracy, %")
    legend_below(figure, axes)
    return _titled(figure, finding)


def _error_bars(estimates: Sequence[Estimate]) -> Any:
    """Distances from the value to both ends of the interval, `(2, estimates)`."""
    below = [0.0 if estimate.low is None else estimate.value - estimate.low for estimate in estimates]
    above = [0.0 if estimate.high is None else estimate.high - estimate.value for estimate in estimates]
    return np.maximum(0, np.array([below, above]))


def _titled(figure: Figure, finding: Finding) -> Figure:
    figure.suptitle(f"{finding.statement}: {'yes' if finding.holds else 'no'}", fontsize=10, wrap=True)
    return figure
