"""Plots of results: all models that a folder holds results of, in one plot for each evaluation.

Figures are drawn from the results' files alone. Labels may be in Japanese: a font is looked for among those installed,
then in the package matplotlib-fontja.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import write_whole

from .results import Results, Row, comparable_settings, differing_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "IPAexGothic",
    "IPAGothic",
    "TakaoGothic",
    "Hiragino Sans",
    "Yu Gothic",
    "Meiryo",
    "MS Gothic",
)
_PANEL = (4.2, 3.2)
_STEP = re.compile(r"(?P<run>.*[/@](?:.*-)?)(?P<number>\d+)(?P<thousands>k?)")

# What the pairs of the similarity distribution are.
_KINDS = {"positive": "passages that belong together", "random": "any two passages"}


@dataclass(frozen=True)
class Measured:
    """One finished measurement: its rows, and what the model gave for each example."""

    rows: list[Row]
    instances: list[dict[str, Any]]

    @property
    def label(self) -> str:
        """The model's name, short enough for a legend."""
        return "/".join(self.rows[0].model.rstrip("/").split("/")[-2:])

    @property
    def about(self) -> str:
        """What the figures are of."""
        row = self.rows[0]
        limit = row.settings.get("limit")
        return f"{row.dataset}, {row.split}; {row.protocol} protocol{f', limit {limit}' if limit else ''}"

    def value(self, metric: str, subset: str = "") -> float | None:
        """One figure, if it is there."""
        return next((row.value for row in self.rows if (row.metric, row.subset) == (metric, subset)), None)


def plot_all(results: Results, folder: Path) -> list[Path]:
    """Draws every plot that there are results for.

    Args:
        results: the folder of results.
        folder: to write PNG files to; made if it is not there.

    Returns:
        The files.

    Raises:
        UsageError: there is nothing to plot, or no library or Japanese font to plot with.
    """
    groups: dict[tuple[str, str], dict[tuple[str, Any], list[Measured]]] = {}
    for rows, instances in results.measurements():
        measured = Measured(rows, instances)
        drawing = (rows[0].task, rows[0].protocol)
        if is_plotted(*drawing):
            alike = (measured.about, comparable_settings(rows[0]))
            groups.setdefault(drawing, {}).setdefault(alike, []).append(measured)
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    with style():
        for (task, protocol), by_data in groups.items():
            draw = _DRAWINGS.get((task, protocol)) or _DRAWINGS[task, ""]
            for number, ((about, settings), found) in enumerate(by_data.items()):
                figure = draw(found)
                told = differing_settings(settings, (others for place, others in by_data if place == about))
                figure.suptitle(", ".join([f"{task}: {about}", *told]), fontsize=10)
                path = folder / f"{task}-{protocol}{f'-{number + 1}' if number else ''}.png"
                save(figure, path)
                written.append(path)
    if not written:
        raise UsageError(f"{results.folder} holds no results that are plotted.")
    return written


def style() -> AbstractContextManager[Any]:
    """The look of all plots, Japanese labels included.

    Raises:
        UsageError: there is no Japanese font.
    """
    import matplotlib

    family = ["DejaVu Sans", _japanese_font()]
    return matplotlib.rc_context({"font.family": family, "axes.spines.top": False, "axes.spines.right": False})


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all, and the same bytes whatever the library's version is called."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150, metadata={"Software": None})
    write_whole(path, image.getvalue())


def is_plotted(task: str, protocol: str) -> bool:
    """Whether there is a plot of a task's results."""
    return (task, protocol) in _DRAWINGS or (task, "") in _DRAWINGS


def trajectories(models: Sequence[str]) -> list[list[str]]:
    """Checkpoints of one run in the order of their steps, a list for each run that has two or more.

    A checkpoint is a name that ends in a number behind `/` or `@`, such as `run/checkpoint-200` or `name@stage1-15k`.
    """
    runs: dict[str, list[tuple[int, str]]] = {}
    for model in dict.fromkeys(models):
        found = _STEP.fullmatch(model)
        if found:
            step = int(found["number"]) * (1000 if found["thousands"] else 1)
            runs.setdefault(found["run"], []).append((step, model))
    return [[model for _, model in sorted(steps)] for steps in runs.values() if len(steps) > 1]


def _alignment_uniformity(found: Sequence[Measured]) -> Figure:
    figure, (axes,) = panels_of(1)
    places = {
        one.rows[0].model: (x, y)
        for one in found
        if (x := one.value("uniformity")) is not None and (y := one.value("alignment")) is not None
    }
    labels = {one.rows[0].model: one.label for one in found}
    runs = trajectories(list(places))
    alone = [[model] for model in places if not any(model in run for run in runs)]
    for number, run in enumerate((*runs, *alone)):
        color = f"C{number}"
        label = labels[run[0]] if len(run) == 1 else f"{_run_name(labels[run[0]])} {_step(run[0])} → {_step(run[-1])}"
        xs, ys = zip(*(places[model] for model in run), strict=True)
        axes.scatter(xs, ys, s=24, zorder=3, color=color, label=label)
        for before, after in pairwise(run):
            # The head lies above the points, so that it is seen between two that are close.
            arrow = {"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 2, "mutation_scale": 9}
            axes.annotate("", places[after], places[before], arrowprops=arrow, zorder=4)
        if len(run) > 1:
            for model in (run[0], run[-1]):
                axes.annotate(_step(model), places[model], (4, 5), textcoords="offset points", fontsize=7, color=color)
    axes.margins(0.1)
    axes.set_xlabel("uniformity (lower is better)")
    axes.set_ylabel("alignment (lower is better)")
    legend_below(figure, axes)
    return figure


def _similarity(found: Sequence[Measured]) -> Figure:
    figure, panels = panels_of(len(found))
    labels = _short([one.label for one in found])
    # On the unit sphere, |a − b|² = 2 − 2·cos.
    cosines = [
        [[1 - item["squared_distance"] / 2 for item in one.instances if item["kind"] == kind] for kind in _KINDS]
        for one in found
    ]
    least = min(cosine for of_model in cosines for of_kind in of_model for cosine in of_kind)
    for axes, one, label, of_model in zip(panels, found, labels, cosines, strict=True):
        for values, kind in zip(of_model, _KINDS.values(), strict=True):
            axes.hist(values, bins=40, range=(min(least, 0.0), 1.0), alpha=0.6, density=True, label=kind)
        auc = one.value("auc")
        axes.set_title(f"{label}   AUC {auc:.3f}" if auc is not None else label, fontsize=9)
        axes.set_xlabel("cosine similarity")
        axes.set_ylabel("density")
    legend_below(figure, panels[0])
    return figure


def _by_context(found: Sequence[Measured]) -> Figure:
    figure, (axes,) = panels_of(1)
    for one, label in zip(found, _short([one.label for one in found]), strict=True):
        rows = [row for row in one.rows if row.metric == "pseudo_perplexity" and row.subset]
        contexts = [row.context for row in rows]
        (line,) = axes.plot(contexts, [row.value for row in rows], marker="o", ms=4, label=label)  # type: ignore[arg-type]
        bands = [(context, row.low, row.high) for context, row in zip(contexts, rows, strict=True) if row.low]
        if bands:
            at, low, high = zip(*bands, strict=True)
            axes.fill_between(at, low, high, alpha=0.2, color=line.get_color(), lw=0)
    axes.set_xscale("log", base=2)
    ticks = sorted({row.context for one in found for row in one.rows if row.context})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlabel("tokens of context around the same targets")
    axes.set_ylabel("pseudo-perplexity (lower is better)\nwith 95 % interval")
    _set_positive_scale(axes, [row.value for one in found for row in one.rows if row.value])
    legend_below(figure, axes)
    return figure


def _by_length(found: Sequence[Measured]) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure, (scatter, histogram) = panels_of(2)
    values = [item["pseudo_perplexity"] for one in found for item in one.instances]
    for one, label in zip(found, _short([one.label for one in found]), strict=True):
        lengths = [item["length"] for item in one.instances]
        scatter.scatter(lengths, [item["pseudo_perplexity"] for item in one.instances], s=6, alpha=0.5, label=label)
        histogram.hist(lengths, bins=32, range=(0, 8192), histtype="step", label=label)
    if not _set_positive_scale(scatter, values):
        # A few documents that no model reads well would flatten the rest.
        scatter.set_ylim(0, 1.1 * float(np.quantile(values, 0.98)))
    scatter.set_xlabel("tokens of the document")
    scatter.set_ylabel("pseudo-perplexity (lower is better)")
    histogram.set_xlabel("tokens of the document")
    histogram.set_ylabel("documents")
    histogram.yaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, scatter)
    return figure


def _fill_mask(found: Sequence[Measured]) -> Figure:
    categories = ["", *dict.fromkeys(row.subset for one in found for row in one.rows if row.subset)]
    figure, (axes,) = panels_of(1, height=1.2 + 0.11 * len(categories) * (len(found) + 1))
    height = 0.84 / len(found)
    labels = _short([one.label for one in found])
    for number, one in enumerate(found):
        values = [100 * (one.value("top1_accuracy", category) or 0.0) for category in categories]
        places = [place + (number + 0.5) * height - 0.42 for place in range(len(categories))]
        bars = axes.barh(places, values, height, label=labels[number])
        axes.bar_label(bars, fmt="%.0f", fontsize=6, padding=2)
    axes.set_yticks(range(len(categories)), ["all", *(name.replace("_", " ") for name in categories[1:])])
    axes.tick_params(axis="y", length=0)
    for place in range(len(categories) - 1):
        axes.axhline(place + 0.5, color="0.9", lw=0.8, zorder=0)
    axes.set_ylim(len(categories) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("prompts whose first answer is right, %")
    legend_below(figure, axes)
    return figure


_DRAWINGS: dict[tuple[str, str], Callable[[Sequence[Measured]], Figure]] = {
    ("alignment-uniformity", ""): _alignment_uniformity,
    ("similarity", ""): _similarity,
    ("pseudo-perplexity", "improved"): _by_context,
    ("pseudo-perplexity", "paper"): _by_length,
    ("fill-mask", ""): _fill_mask,
}


def panels_of(panels: int, height: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of panels, two in a row at most; it needs no screen."""
    from matplotlib.figure import Figure

    columns = min(panels, 2)
    rows = -(-panels // columns)
    width = _PANEL[0] * columns * (1.4 if panels == 1 else 1)
    figure = Figure(figsize=(width, height or _PANEL[1] * rows * (1.2 if panels == 1 else 1)), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]


def legend_below(figure: Figure, *panels: Axes) -> None:
    """One legend for what these panels show, where it hides nothing."""
    shown = [entry for panel in panels for entry in zip(*panel.get_legend_handles_labels(), strict=True)]
    handles, labels = zip(*shown, strict=True)
    columns = 3 if max(map(len, labels)) < 30 else 2
    figure.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=min(columns, len(labels)))


def _set_positive_scale(axes: Axes, values: Sequence[float]) -> bool:
    """Makes the vertical scale logarithmic, if values of very different models would be flat on a linear one."""
    wide = min(values) > 0 and max(values) > 20 * min(values)
    if wide:
        axes.set_yscale("log")
    return wide


def _short(labels: Sequence[str]) -> list[str]:
    """Labels without the model's name where all are revisions of one model."""
    names = {label.partition("@")[0] for label in labels}
    return [label.partition("@")[2] or label for label in labels] if len(names) == 1 < len(labels) else list(labels)


def _run_name(checkpoint: str) -> str:
    """A checkpoint's name without its step."""
    found = _STEP.fullmatch(checkpoint)
    return found["run"].rstrip("/@-") if found else checkpoint


def _step(checkpoint: str) -> str:
    found = _STEP.fullmatch(checkpoint)
    return f"{found['number']}{found['thousands']}" if found else checkpoint


def _japanese_font() -> str:
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    for name in _FONTS:
        if name in installed:
            return name
    # Importing the package would change all plots of this process, so that only its font is taken.
    package = find_spec("matplotlib_fontja")
    fonts: Iterable[Path] = Path(package.origin).parent.rglob("*.ttf") if package and package.origin else ()
    for path in fonts:
        font_manager.fontManager.addfont(str(path))
        return font_manager.FontProperties(fname=str(path)).get_name()
    raise UsageError("plots need a Japanese font: pip install 'llm-jp-modernbert[eval]', or install Noto Sans CJK JP.")
