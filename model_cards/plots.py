"""The plot of a training, from what training.json holds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PATH = "assets/training.png"

_ACCURACY = "eval_masked_accuracy"


def plot_training(training: Mapping[str, Any], folder: Path) -> str | None:
    """Draws loss, held-out loss and accuracy, probes and learning rate over the tokens read, stage after stage.

    Args:
        training: the content of training.json.
        folder: of the release.

    Returns:
        The image's path in the folder, or None where there is no curve to draw.

    Raises:
        UsageError: there is no library to plot with.
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

    shares = sorted(
        {name for stage in stages for name in stage["curve"] if name == _ACCURACY or name.startswith("probe_")}
    )
    by_tokens = all(stage["curve"].get("tokens") for stage in stages)
    panels = 3 if shares else 2
    starts = [0, *accumulate(stage["tokens" if by_tokens else "steps"] for stage in stages)]
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4.2 * panels, 3.4), layout="constrained")
        axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
        for stage, start in zip(stages, starts, strict=False):
            places = _places(stage["curve"], start, by_tokens)
            _line(axes[0], places, stage["curve"], "loss", "C0", "training")
            _line(axes[0], places, stage["curve"], "eval_loss", "C1", "held-out")
            _line(axes[1], places, stage["curve"], "learning_rate", "C2", "learning rate")
            for number, name in enumerate(shares):
                label = "held-out accuracy" if name == _ACCURACY else name.removeprefix("probe_").replace("_", " ")
                _line(axes[2], places, stage["curve"], name, f"C{number + 3}", label)
        for panel, title in zip(axes, ("loss", "learning rate", "accuracy and probes"), strict=False):
            panel.set_title(title, fontsize=10)
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            panel.xaxis.set_major_locator(MaxNLocator(5))
            panel.set_xlabel("tokens read" if by_tokens else "optimizer steps")
            for number, start in enumerate(starts[1:-1]):
                panel.axvline(start, color="0.7", linewidth=1, linestyle=":")
                panel.annotate(
                    f" {stages[number + 1]['stage']}",
                    (start, 1),
                    xycoords=("data", "axes fraction"),
                    va="top",
                    fontsize=7,
                )
        for panel in (axes[0], *axes[2:]):
            # Each stage draws its own line; one of a kind is enough in the legend.
            named = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
            panel.legend(named.values(), named.keys(), fontsize=7)
        image = io.BytesIO()
        # Without the library's version the image is the same for all of them.
        figure.savefig(image, format="png", dpi=150, metadata={"Software": None})
    (folder / PATH).parent.mkdir(parents=True, exist_ok=True)
    write_whole(folder / PATH, image.getvalue())
    return PATH


def _places(curve: Mapping[str, Any], start: int, by_tokens: bool) -> list[float | None]:
    """Where each point of a stage's curve stands; one without tokens, as of a probe, stands by its step."""
    if not by_tokens:
        return [start + step for step in curve["step"]]
    known = {step: tokens for step, tokens in zip(curve["step"], curve["tokens"], strict=True) if tokens is not None}
    last_step, last = max(known.items())
    rate = last / last_step if last_step else 0.0
    return [start + known.get(step, step * rate) for step in curve["step"]]


def _line(axes: Axes, places: list[float | None], curve: Mapping[str, Any], name: str, color: str, label: str) -> None:
    points = [
        (place, value) for place, value in zip(places, curve.get(name, []), strict=False) if None not in (place, value)
    ]
    if points:
        # Few points are seen as points.
        marker = "o" if len(points) < 30 else None
        axes.plot(*zip(*points, strict=True), color=color, label=label, marker=marker, markersize=3, linewidth=1.2)
