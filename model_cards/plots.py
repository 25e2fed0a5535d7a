"""Plot of a training run from training.json."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, count
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.plots import save

PATH = "assets/training.png"


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
        from matplotlib.ticker import EngFormatter, MaxNLocator
    except ImportError as error:
        raise UsageError("plots need matplotlib: pip install 'llm-jp-modernbert[eval]'.") from error
    # Title of each panel, with the curves in it and their labels.
    panels: dict[str, dict[str, str | None]] = {
        "loss": {"loss": "training", "eval_loss": "held-out"},
        "learning rate": {"learning_rate": None},
    }
    shares = {
        name for stage in stages for name in stage["curve"] if name.startswith(("eval_masked_accuracy", "probe_"))
    }
    if shares:
        probes = any(name.startswith("probe_") for name in shares)
        panels["accuracy and probes" if probes else "accuracy"] = {
            name: "held-out accuracy" if name == "eval_masked_accuracy" else name[len("probe_") :].replace("_", " ")
            for name in sorted(shares)
        }
    by_tokens = all(stage.get("tokens") is not None and any(stage["curve"].get("tokens", ())) for stage in stages)
    starts = [0, *accumulate(stage["tokens" if by_tokens else "steps"] for stage in stages)]
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
        colors = (f"C{number}" for number in count())
        for index, (title, labels) in enumerate(panels.items()):
            axes = figure.add_subplot(1, len(panels), index + 1)
            for name, label in labels.items():
                color = next(colors)
                for stage, start in zip(stages, starts, strict=False):
                    xs = _positions(stage["curve"], start, by_tokens)
                    values = stage["curve"].get(name, [])
                    points = [(x, value) for x, value in zip(xs, values, strict=False) if value is not None]
                    if points:
                        marker = "o" if len(points) < 30 else None
                        axes.plot(*zip(*points, strict=True), c=color, label=label, marker=marker, ms=3, lw=1.2)
                        # Every stage draws its own line; the legend shows each label once.
                        label = None
            for start, stage in list(zip(starts, stages, strict=False))[1:]:
                axes.axvline(start, color="0.7", linewidth=1, linestyle=":")
                place: Any = {"xycoords": ("data", "axes fraction"), "va": "top", "fontsize": 7}
                axes.annotate(f" {stage['stage']}", (start, 1), **place)
            axes.set_title(title, fontsize=10)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.set_xlabel("tokens" if by_tokens else "optimizer steps")
            if title != "learning rate":
                axes.legend(fontsize=7)
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
