"""The plot of the table: how many times as fast as transformers, a bar for each case."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.files import write_whole

from .results import by_case, comparisons

FILE = "table.png"
"""Name of the plot in the folder of results."""

_PLAIN, _COMPILED, _GOAL, _PEER = "#1f5fa8", "#8db8e2", "#c0392b", "#222222"


def plot(content: dict[str, Any], folder: Path) -> Path | None:
    """Draws the comparisons with transformers as it comes, and marks the goals and transformers at its best.

    Args:
        content: of a file of results.
        folder: where the plot is written.

    Returns:
        The PNG file, or None where nothing was compared.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    compared = comparisons(content)
    groups = by_case(compared)
    if not groups:
        return None
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for place, group in enumerate(groups):
        first = group[0]
        if first.compiled is not None:
            axes.barh(place, first.compiled, height=0.66, color=_COMPILED)
        axes.barh(place, first.ratio, height=0.36, color=_PLAIN)
        if first.goal.ratio is not None:
            axes.plot(first.goal.ratio, place, marker="D", color=_GOAL, markersize=6)
        best = max(first.measured.ratio(one.goal.against, first.goal.against) for one in group)
        if best > 1:
            axes.plot([best, best], [place - 0.4, place + 0.4], color=_PEER, linewidth=2.5)
        end = max(first.best, best, first.goal.ratio or 0.0)
        axes.annotate(
            f"{first.best:.2f} ×", (end, place), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.axvline(1, color=_PEER, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(groups)), [group[0].measured.name for group in groups])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.margins(x=0.12)
    axes.set_xlabel("times as fast as the peer as it comes")
    axes.spines[["top", "right"]].set_visible(False)
    machine = content["machine"]
    axes.set_title(
        f"{machine['name']}, threads: {machine['threads']}; shape {content['settings']['shape']}", fontsize=10
    )
    handles = [
        Patch(color=_PLAIN, label="this library"),
        *([Patch(color=_COMPILED, label="this library, compiled")] if any(one.compiled for one in compared) else []),
        Line2D(
            [], [], color=_PEER, linestyle="--", linewidth=1, label="the peer (transformers or datasets) as it comes"
        ),
        Line2D([], [], color=_PEER, linewidth=2.5, label="the peer at its best"),
        Line2D([], [], color=_GOAL, marker="D", linestyle="", label="goal"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120, metadata={"Software": None})
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FILE, image.getvalue())
    return folder / FILE
