"""The plots of findings: one statement each, with its answer above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.evaluation.report.plots import legend_below, panels_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..about import Estimate, Finding

_TITLE = 10
# Of figures with two panels, in inches.
_HEIGHT = 3.9


def by_context(
    finding: Finding,
    absolute: Mapping[str, Mapping[int, float]],
    ratios: Mapping[int, Estimate],
    boundary: int,
    divided: tuple[str, str],
) -> Figure:
    """Pseudo-perplexity of two models by context, and the ratio of the two.

    Args:
        finding: what is shown.
        absolute: by model and tokens of context the figure. Its interval, which is of how documents differ from one
            another, would say nothing of two models on the same documents.
        ratios: by tokens of context.
        boundary: tokens of the rows of stage 1.
        divided: what is divided by what.
    """
    figure, (left, right) = panels_of(2, _HEIGHT)
    for (name, values), marker in zip(absolute.items(), "os", strict=True):
        left.plot(list(values), list(values.values()), label=name, marker=marker, ms=4, lw=1.2)
    left.set_ylabel("pseudo-perplexity (lower is better)")
    shown = [(context, one.value, one.low, one.high) for context, one in ratios.items()]
    _points(right, shown, label="ratio with 95 % interval over documents", color="C2", marker="D")
    right.axhline(1, color="0.4", lw=0.8)
    right.set_ylabel(f"{' ÷ '.join(divided)} (below 1: better)")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(ratios), [f"{context:,}" for context in ratios], rotation=45)
        axes.minorticks_off()
        axes.axvline(boundary, color="0.6", lw=1, ls=":")
        axes.annotate(
            " rows of stage 1 are no longer",
            (boundary, 1),
            xycoords=("data", "axes fraction"),
            va="top",
            fontsize=7,
            color="0.4",
        )
        axes.set_xlabel("tokens of context around the same targets")
    legend_below(figure, left, right)
    return _titled(figure, finding)


def trade_off(
    finding: Finding, names: Sequence[str], alignments: Sequence[Estimate], uniformities: Sequence[Estimate]
) -> Figure:
    """The way of a model through alignment and uniformity."""
    figure, (axes,) = panels_of(1)
    stages: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        stages.setdefault(name.partition(" ")[0], []).append(number)
    xs, ys = [one.value for one in uniformities], [one.value for one in alignments]
    axes.plot(xs, ys, color="0.7", lw=1, zorder=1)
    for stage, places in stages.items():
        axes.errorbar(
            [xs[place] for place in places],
            [ys[place] for place in places],
            xerr=_reach([uniformities[place] for place in places]),
            yerr=_reach([alignments[place] for place in places]),
            fmt="o",
            ms=4,
            lw=1,
            label=f"steps of {stage}",
            zorder=2,
        )
    # Where a stage begins it has hardly left the one before: their names go to different sides.
    for places, (offset, side) in zip(stages.values(), cycle((((5, 5), "left"), ((-5, -9), "right")))):
        for place in places:
            axes.annotate(
                names[place].rpartition(" ")[2],
                (xs[place], ys[place]),
                offset,
                textcoords="offset points",
                ha=side,
                fontsize=7,
            )
    # Where training begins far from where it ends, a linear scale would put all later states on one spot.
    if max(xs) < 0 < min(ys) and max(ys) > 20 * min(ys):
        axes.set_xscale("symlog", linthresh=-max(xs) / 2)
        axes.set_yscale("log")
        axes.set_xlim(right=max(xs) / 2)
    axes.margins(0.12)
    axes.set_xlabel("uniformity (lower is better)")
    axes.set_ylabel("alignment (lower is better)")
    legend_below(figure, axes)
    return _titled(figure, finding)


def courses(
    finding: Finding, ours: Sequence[Mapping[str, Sequence[float]]], theirs: Sequence[Mapping[str, Sequence[float]]]
) -> Figure:
    """Held-out loss over tokens and over time, a line for each seed."""
    figure, panels = panels_of(2, _HEIGHT)
    for axes, name, unit in zip(panels, ("tokens", "seconds"), ("tokens read", "seconds of training"), strict=True):
        for runs, color, label in ((ours, "C0", "packed, documents apart"), (theirs, "C1", "padded and truncated")):
            for number, run in enumerate(runs):
                axes.plot(
                    run[name], run["loss"], color=color, lw=1, alpha=0.8, label=None if number else label, marker="."
                )
        # The first steps are of no interest here, and would flatten all others.
        last = [run["loss"][-1] for run in (*ours, *theirs)]
        middle = [run["loss"][len(run["loss"]) // 4] for run in (*ours, *theirs)]
        margin = 0.1 * (max(middle) - min(last)) or 0.1
        axes.set_ylim(min(last) - margin, max(middle) + margin)
        axes.set_xlabel(unit)
        axes.set_ylabel("held-out loss (lower is better)")
    from matplotlib.ticker import EngFormatter

    panels[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    legend_below(figure, panels[0])
    return _titled(figure, finding)


def accuracies(finding: Finding, names: Sequence[str], values: Mapping[str, Sequence[Estimate]]) -> Figure:
    """Bars of top-1 accuracy of several models, each read in several ways."""
    figure, (axes,) = panels_of(1)
    height = 0.8 / len(values)
    for number, (label, estimates) in enumerate(values.items()):
        places = [place + (number + 0.5) * height - 0.4 for place in range(len(names))]
        axes.barh(places, [100 * one.value for one in estimates], height * 0.9, label=label)
        axes.errorbar(
            [100 * one.value for one in estimates],
            places,
            xerr=100 * _reach(estimates),
            fmt="none",
            ecolor="0.3",
            lw=1,
        )
        for place, one in zip(places, estimates, strict=True):
            axes.text(100 * (one.high or one.value), place, f" {100 * one.value:.1f}", va="center", fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    highest = max(one.value if one.high is None else one.high for estimates in values.values() for one in estimates)
    axes.set_xlim(0, min(100, 110 * highest) or 1)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("prompts whose first answer is right, %")
    legend_below(figure, axes)
    return _titled(figure, finding)


def _points(axes: Axes, points: Sequence[tuple[float, float, float | None, float | None]], **look: Any) -> None:
    xs, values, lows, highs = zip(*points, strict=True)
    below = [value - (value if low is None else low) for value, low in zip(values, lows, strict=True)]
    above = [(value if high is None else high) - value for value, high in zip(values, highs, strict=True)]
    axes.errorbar(xs, values, yerr=[below, above], ms=4, lw=1.2, capsize=2, **look)


def _reach(estimates: Sequence[Estimate]) -> Any:
    """How far the intervals reach below and above, `(2, estimates)`."""
    import numpy as np

    below = [one.value - (one.value if one.low is None else one.low) for one in estimates]
    above = [(one.value if one.high is None else one.high) - one.value for one in estimates]
    return np.maximum(0, np.array([below, above]))


def _titled(figure: Figure, finding: Finding) -> Figure:
    figure.suptitle(f"{finding.statement}: {'yes' if finding.holds else 'no'}", fontsize=_TITLE, wrap=True)
    return figure
