"""The plot of the GPU benchmark: the parts that have results so far."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.files import write_whole

_COLORS = ("#1f5fa8", "#8db8e2", "#c0392b", "#e2a08d", "#5a8f4e", "#b8a14b", "#b5b5b5")


def plot(content: dict[str, Any], path: Path) -> None:
    """Draw one panel for each part with measured rows."""
    from matplotlib.figure import Figure

    panels = []
    for name, draw in _PANELS.items():
        rows = content["parts"].get(name, {}).get("rows", [])
        measured = [row for row in rows if not {"skipped", "failed"} & set(row)]
        if measured:
            panels.append((draw, measured))
    if not panels:
        return
    heights = [0.9 + 0.28 * len(rows) for _, rows in panels]
    figure = Figure(figsize=(9, 0.6 + sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    for panel, (draw, rows) in zip(axes, panels, strict=True):
        draw(panel, rows)
        panel.invert_yaxis()
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{content['machine']['name']}, {content['settings']['shape']} model", fontsize=10)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, image.getvalue())


def _bars(axes: Any, labels: Sequence[str], values: Sequence[float], title: str) -> None:
    axes.barh(range(len(values)), values, color=_COLORS[0], height=0.7)
    axes.set_yticks(range(len(labels)), labels)
    axes.bar_label(axes.containers[0], [f"{value:,.4g}" for value in values], fontsize=7, padding=3)
    axes.set_title(title, fontsize=9, loc="left")
    axes.margins(x=0.12)


def _profile(axes: Any, rows: list[dict[str, Any]]) -> None:
    groups = list(dict.fromkeys(group for row in rows for group in row["ms by group"]))
    left = [0.0] * len(rows)
    for index, group in enumerate([*groups, "idle"]):
        values = [row["idle ms"] if group == "idle" else row["ms by group"].get(group, 0.0) for row in rows]
        axes.barh(range(len(rows)), values, left=left, label=group, color=_COLORS[index % len(_COLORS)], height=0.7)
        left = [start + value for start, value in zip(left, values, strict=True)]
    axes.set_yticks(range(len(rows)), [row["shape"] for row in rows])
    axes.set_title("profile: ms per step", fontsize=9, loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), fontsize=7, ncols=7, frameon=False)


def _attention(axes: Any, rows: list[dict[str, Any]]) -> None:
    labels = [f"{row['layer']}, {row['documents up to']:,}: {row['kernel']}" for row in rows]
    values = [row["forward ms"] + row["backward ms"] for row in rows]
    _bars(axes, labels, values, "attention: ms per layer, forward and backward pass")


def _head(axes: Any, rows: list[dict[str, Any]]) -> None:
    labels = [f"chunk {row['chunk']}, block {row['block']}" for row in rows]
    _bars(axes, labels, [row["ms"] for row in rows], "vocabulary head: ms")


def _rates(title: str) -> Callable[[Any, list[dict[str, Any]]], None]:
    def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
        labels = [f"{row['case']}: {row['candidate']}" for row in rows]
        _bars(axes, labels, [row["tokens/s"] for row in rows], title)

    return draw


_PANELS: dict[str, Callable[[Any, list[dict[str, Any]]], None]] = {
    "profile": _profile,
    "attention": _attention,
    "head": _head,
    "training": _rates("training: tokens/s"),
    "inference": _rates("inference: tokens/s"),
}
