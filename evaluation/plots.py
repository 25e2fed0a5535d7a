"""Draws the plots of a results folder; each task defines its own plot."""

from __future__ import annotations

from pathlib import Path

from .report.plots import Measured, save, style
from .report.results import Results, comparable_settings, differing_settings
from .tasks.registry import task_class


def plot_all(results: Results, folder: Path) -> list[Path]:
    """Draws one plot per task, protocol, dataset and settings, with all models in it.

    Args:
        results: the results folder.
        folder: directory of the PNG files; created if missing.

    Returns:
        The files.

    Raises:
        UsageError: no Japanese font is available, or a results file is invalid.
    """
    groups: dict[tuple[str, str], dict[tuple[str, tuple[tuple[str, str], ...]], list[Measured]]] = {}
    for rows, instances in results.measurements():
        measured = Measured(rows, instances)
        group = groups.setdefault((rows[0].task, rows[0].protocol), {})
        # Rows of one measurement differ by context, which the plot shows.
        settings = tuple(pair for pair in comparable_settings(rows[0]) if pair[0] != "context")
        group.setdefault((measured.about, settings), []).append(measured)
    files = []
    with style():
        for (task, protocol), variants in groups.items():
            number = 0
            for (about, settings), models in variants.items():
                plotted = task_class(models[0].rows[0].selector or task)
                figure = plotted.plot(models) if plotted else None
                if figure is None:
                    continue
                number += 1
                others = [other for other_about, other in variants if other_about == about]
                figure.suptitle(", ".join([f"{task}: {about}", *differing_settings(settings, others)]), fontsize=10)
                folder.mkdir(parents=True, exist_ok=True)
                files.append(folder / f"{task}-{protocol}{f'-{number}' if number > 1 else ''}.png")
                save(figure, files[-1])
    return files
