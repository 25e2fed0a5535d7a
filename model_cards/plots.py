"""Plot of a training run from training.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.report.plots import save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PATH = "assets/training.png"

_ACCURACY = "eval_masked_accuracy"


def plot_training(training: Mapping[str, Any], folder: Path) -> str | None:
    """Plot loss, learning rate, held-out accuracy and probes of training.json against processed tokens.

    Returns:
        Path of the plot in the release `folder`; None if no loss was logged.

    Raises:
        UsageError: matplotlib is not installed.
    """
    stages = [stage for stage in training["stages"] if any(stage.get("curve", {}).get("loss", []))]
    if not stages:
        return None
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("plots need matplotlib: pip install 'llm-jp-modernbert[eval]'.") from error
    shares = sorted(
        {name for stage in stages for name in stage["curve"] if name == _ACCURACY or name.startswith("probe_")}
    )
    by_tokens = all(stage["curve"].get("tokens") for stage in stages)
    starts = [0, *accumulate(stage["tokens" if by_tokens else "steps"] for stage in stages)]
    panels = 3 if shares else 2
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4.2 * panels, 3.4), layout="constrained")
        axes = [figure.add_subplot(1, panels, index + 1) for index in range(panels)]
        for stage, start in zip(stages, starts, strict=False):
            curve = stage["curve"]
            xs = _positions(curve, start, by_tokens)
            _line(axes[0], xs, curve, "loss", "C0", "training")
            _line(axes[0], xs, curve, "eval_loss", "C1", "held-out")
            _line(axes[1], xs, curve, "learning_rate", "C2", "learning rate")
            for index, name in enumerate(shares):
                label = "held-out accuracy" if name == _ACCURACY else name.removeprefix("probe_").replace("_", " ")
                _line(axes[2], xs, curve, name, f"C{index + 3}", label)
        boundaries = [(start, stage["stage"]) for start, stage in zip(starts, stages, strict=False)][1:]
        for panel, title in zip(axes, ("loss", "learning rate", "accuracy and probes"), strict=False):
            _decorate(panel, title, "tokens" if by_tokens else "optimizer steps", boundaries)
        (folder / PATH).parent.mkdir(parents=True, exist_ok=True)
        save(figure, folder / PATH)
    return PATH


def _positions(curve: Mapping[str, Any], start: int, by_tokens: bool) -> list[float]:
    """Horizontal position of each point; missing token counts, such as those of probes, are interpolated."""
    if not by_tokens:
        return [start + step for step in curve["step"]]
    known = {step: tokens for step, tokens in zip(curve["step"], curve["tokens"], strict=True) if tokens is not None}
    last_step, last = max(known.items())
    rate = last / last_step if last_step else 0.0
    return [start + known.get(step, step * rate) for step in curve["step"]]


def _line(axes: Axes, xs: Sequence[float], curve: Mapping[str, Any], name: str, color: str, label: str) -> None:
    points = [(x, value) for x, value in zip(xs, curve.get(name, []), strict=False) if value is not None]
    if points:
        marker = "o" if len(points) < 30 else None
        axes.plot(*zip(*points, strict=True), color=color, label=label, marker=marker, markersize=3, linewidth=1.2)


def _decorate(axes: Axes, title: str, unit: str, boundaries: Sequence[tuple[int, str]]) -> None:
    """Add title, axis label, legend and the boundaries between stages."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(unit)
    for start, stage in boundaries:
        axes.axvline(start, color="0.7", linewidth=1, linestyle=":")
        axes.annotate(f" {stage}", (start, 1), xycoords=("data", "axes fraction"), va="top", fontsize=7)
    # Every stage draws its own line; the legend shows each label once.
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if title != "learning rate":
        axes.legend(handles.values(), handles.keys(), fontsize=7)
