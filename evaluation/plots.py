"""Draws the plots of a results folder; each task defines its own plot."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm_jp_modernbert.core.plots import literal, save, style
from llm_jp_modernbert.core.results import Results, comparable_settings, differing_settings

from .report.plots import Measured, plot_rankings, ranking_row
from .tasks.registry import task_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


def plot_all(results: Results, folder: Path) -> list[Path]:
    """Draws one plot per task, protocol, dataset and settings, with all models in it.

    A plot of damaged outputs is left out with a warning.

    Args:
        results: the results folder.
        folder: directory of the PNG files; created if missing.

    Returns:
        The files.

    Raises:
        UsageError: no Japanese font is available, or a results file is invalid.
    """
    groups: dict[tuple[str, str], dict[tuple[str, tuple[tuple[str, str], ...]], list[Measured]]] = {}
    drawers: dict[str, Callable[[Sequence[Measured]], Figure]] = {}
    for rows, instances in results.measurements():
        measured, task = Measured(rows, instances), task_class(rows[0].selector or rows[0].task)
        if task is not None and task.plottable(measured):
            drawers[rows[0].task] = task.plot
        elif ranking_row(measured) is not None:
            drawers[rows[0].task] = plot_rankings
        else:
            continue
        # Rows of one measurement differ by context, which the plot shows.
        settings = tuple(pair for pair in comparable_settings(rows[0]) if pair[0] != "context")
        group = groups.setdefault((rows[0].task, rows[0].protocol), {})
        group.setdefault((measured.about, settings), []).append(measured)
    files: list[Path] = []
    if not groups:
        return files
    folder.mkdir(parents=True, exist_ok=True)
    with style():
        for (name, protocol), variants in groups.items():
            for number, ((about, settings), models) in enumerate(variants.items(), start=1):
                path = folder / f"{name}-{protocol}{f'-{number}' if number > 1 else ''}.png"
                try:
                    figure = drawers[name](models)
                except (LookupError, TypeError, ValueError) as error:
                    # Keys of the outputs for each example depend on the task, so they are not validated before.
                    logger.warning("%s: not drawn, because a model's outputs are damaged (%r).", path.name, error)
                    continue
                others = [other for other_about, other in variants if other_about == about]
                details = ", ".join([about, *differing_settings(settings, others)])
                # About 13 characters of this size fill an inch.
                lines = textwrap.wrap(details, int(13 * figure.get_figwidth()))
                figure.suptitle(literal("\n".join([name, *lines])), fontsize=9)
                save(figure, path)
                files.append(path)
    return files
