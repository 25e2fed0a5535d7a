"""Plots of findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.plots import legend_below, panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llm_jp_modernbert.core.results import Row

    from ..facts import Estimate


def by_context(
    title: str, rows: Mapping[str, Sequence[Row]], ratios: Mapping[int, Estimate], boundary: int, ratio_name: str
) -> Figure:
    """Pseudo-perplexity of two models by context, and its ratio; a line marks the sequence length of stage 1.

    The two curves have no intervals: these reflect how documents differ, not how models differ on the same documents.
    """
    figure, (left, right) = panels_of(2, 3.9)
    for (name, of_model), marker in zip(rows.items(), "os", strict=True):
        points = [(row.context, row.value) for row in of_model if row.metric == "pseudo_perplexity" and row.context]
        left.plot(*zip(*points, strict=True), label=name, marker=marker, ms=4, lw=1.2)
    left.set_ylabel("pseudo-perplexity (lower is better)")
    right.errorbar(
        list(ratios),
        [ratio.value for ratio in ratios.values()],
        yerr=_error_bars(list(ratios.values())),
        label="ratio (below 1 is better) with 95% interval over documents",
        color="C2",
        fmt="D-",
        ms=4,
        lw=1.2,
        capsize=2,
    )
    right.axhline(1, color="0.4", lw=0.8)
    right.set_ylabel(ratio_name)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(ratios), [f"{context:,}" for context in ratios], rotation=45)
        axes.minorticks_off()
        axes.axvline(boundary, color="0.6", lw=1, ls=":")
        place: Any = {"xycoords": ("data", "axes fraction"), "va": "top", "fontsize": 7, "color": "0.4"}
        axes.annotate(" sequence length of stage 1", (boundary, 1), **place)
        axes.set_xlabel("tokens of context around the same targets")
    legend_below(figure, left, right)
    figure.suptitle(title, fontsize=10)
    return figure


def trade_off(names: Sequence[str], alignments: Sequence[Estimate], uniformities: Sequence[Estimate]) -> Figure:
    """Path of the checkpoints, such as `stage1 step 500`, through alignment and uniformity."""
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
        )
        for index in members:
            step = names[index].rpartition(" ")[2]
            axes.annotate(step, (xs[index], ys[index]), offset, textcoords="offset points", ha=side, fontsize=7)
    axes.margins(0.12)
    axes.set_xlabel("uniformity (lower is better)")
    axes.set_ylabel("alignment (lower is better)")
    legend_below(figure, axes)
    figure.suptitle("Alignment and uniformity of the checkpoints", fontsize=10)
    return figure


def packing(differences: Sequence[Estimate], tolerance: float) -> Figure:
    """Differences in held-out loss with their intervals, and the tolerance that these must not exceed."""
    figure, (axes,) = panels_of(1, 2.4)
    names = [f"{estimate.name}\n({estimate.examples} pairs of seeds)" for estimate in differences]
    values = [estimate.value for estimate in differences]
    label = "mean difference with 95% interval over seeds"
    axes.errorbar(values, names, xerr=_error_bars(differences), fmt="D", ms=4, lw=1.2, capsize=2, label=label)
    axes.axvline(0, color="0.4", lw=0.8)
    axes.axvline(tolerance, color="C3", lw=1, ls=":", label=f"tolerance, {tolerance:g} nats")
    axes.invert_yaxis()
    axes.margins(y=0.4)
    axes.set_xlabel("held-out loss, packed − padded (nats)")
    legend_below(figure, axes)
    figure.suptitle("Held-out loss of packed rows relative to padded and truncated rows", fontsize=10)
    return figure


def mask_space(names: Sequence[str], without: Sequence[Estimate], with_space: Sequence[Estimate]) -> Figure:
    """Bars of top-1 accuracy, one pair per checkpoint."""
    figure, (axes,) = panels_of(1)
    bars = {"without the space": without, "with the published tokenizer's ▁ after the mask": with_space}
    for offset, (label, estimates) in zip((-0.2, 0.2), bars.items(), strict=True):
        shares = [100 * estimate.value for estimate in estimates]
        errors = 100 * _error_bars(estimates)
        ys = np.arange(len(names)) + offset
        axes.barh(ys, shares, 0.36, label=label, xerr=errors, error_kw={"ecolor": "0.3", "lw": 1})
        for y, share, above in zip(ys, shares, errors[1], strict=True):
            axes.text(share + above, y, f" {share:.1f}", va="center", fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("top-1 accuracy, %")
    legend_below(figure, axes)
    figure.suptitle("Fill-mask accuracy with and without a space after the mask", fontsize=10)
    return figure


def _error_bars(estimates: Sequence[Estimate]) -> np.ndarray:
    """Distances from the value to both ends of the interval, `(2, estimates)`; 0 without an interval."""
    value, low, high = np.array([(estimate.value, estimate.low, estimate.high) for estimate in estimates], float).T
    return np.nan_to_num(np.maximum(0, [value - low, high - value]))
