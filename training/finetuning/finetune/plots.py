"""Plots of a fine-tuned model: training curves, confusion matrix and scores by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm_jp_modernbert.core.plots import legend_below, literal, panels_of, save, style

from ..record import Record
from .folder import SeedResult
from .measuring import NONE

ASSETS = "assets"
CONFUSION, PER_CLASS, TRAINING = "confusion.png", "per-class.png", "training.png"

_MOST_CLASSES = 40
_LONGEST_NAME = 24
_CELL = 0.4
"""Width of a cell of the confusion matrix in inches."""


def draw_all(folder: Path, record: Record, curves: Sequence[SeedResult]) -> None:
    """Draws the plots that the type of task has into `folder/assets`.

    Args:
        folder: the model's directory.
        record: its record.
        curves: all trainings.
    """
    assets = folder / ASSETS
    assets.mkdir(exist_ok=True)
    with style():
        draw_training(assets / TRAINING, record["metric"], record["best_seed"], curves)
        if record["confusion"] is not None and len(record["labels"]) <= _MOST_CLASSES:
            _draw_confusion(assets / CONFUSION, record)
        if any("f1" in label for label in record["labels"]):
            _draw_classes(assets / PER_CLASS, record)


def measured_part(record: Record) -> str:
    """The last part that was measured."""
    return "test" if "test" in record["parts"] else "validation"


def draw_training(path: Path, metric: str, best_seed: int, curves: Sequence[SeedResult]) -> None:
    """Draws the training loss and the validation metric of each seed; call it within `core.plots.style`.

    Args:
        path: file of the plot.
        metric: metric that selected the epoch.
        best_seed: seed of the kept model.
        curves: all trainings.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (losses, scores) = panels_of(2)
    factor = 1 if metric == "loss" else 100
    for number, curve in enumerate(curves):
        color = f"C{number}"
        label = f"seed {curve['seed']}{' (kept)' if curve['seed'] == best_seed else ''}"
        losses.plot(*np.reshape(curve["losses"], (-1, 2)).T, c=color)
        epochs, values = np.reshape(curve["scores"], (-1, 2)).T
        scores.plot(epochs, factor * values, c=color, marker="o", ms=3, label=label)
        kept = epochs == curve["epoch"]
        scores.plot(epochs[kept], factor * values[kept], c=color, marker="o", ms=7, mfc="none")
    shown = f"{metric} on validation{' (× 100)' if factor > 1 else ''}, kept epoch circled"
    for axes, title in ((losses, "training loss"), (scores, shown)):
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend_below(figure, scores)
    save(figure, path)


def _draw_confusion(path: Path, record: Record) -> None:
    from matplotlib.figure import Figure

    matrix = record["confusion"] or []
    names = [_short(label["name"]) for label in record["labels"]]
    names += [NONE] * (len(matrix) - len(names))
    size = max(_CELL * len(names), 2.4)
    # Saving adds the room for the names.
    figure = Figure(figsize=(size, size))
    axes = figure.add_axes((0, 0, 1, 1))
    # Colors show the share of each true class, so that rare classes are visible.
    shares = [[count / max(1, sum(row)) for count in row] for row in matrix]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, counts in enumerate(matrix):
        for column, count in enumerate(counts):
            if count:
                color = "white" if shares[row][column] > 0.6 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("correct")
    axes.set_title(f"{measured_part(record)}: number of {_items(record)}", fontsize=9)
    save(figure, path)


def _draw_classes(path: Path, record: Record) -> None:
    part = measured_part(record)
    labels = sorted(record["labels"], key=lambda label: label["counts"].get(part, 0))[-_MOST_CLASSES:]
    figure, (axes,) = panels_of(1, height=max(2.4, 1.2 + 0.36 * len(labels)))
    places = range(len(labels))
    axes.barh(places, [100 * label["f1"] for label in labels], height=0.6, color="C0", alpha=0.45, label="F1")
    axes.plot([100 * label["precision"] for label in labels], places, "oC1", ms=5, clip_on=False, label="precision")
    axes.plot([100 * label["recall"] for label in labels], places, "sC2", ms=5, clip_on=False, label="recall")
    names = [f"{_short(label['name'])} ({label['counts'].get(part, 0):,})" for label in labels]
    axes.set_yticks(places, names, fontsize=8)
    axes.set_xlim(0, 103)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_title(f"{part}: scores by {class_name(record)} (× 100), with its number of {_items(record)}", fontsize=9)
    legend_below(figure, axes)
    save(figure, path)


def class_name(record: Record) -> str:
    """The word for one of the classes."""
    return {"ner": "entity type", "multiple-choice": "choice"}.get(record["kind"], "label")


def _items(record: Record) -> str:
    names = {"ner": "entities", "multiple-choice": "questions", "pair-classification": "pairs"}
    return names.get(record["kind"], "texts")


def _short(name: str) -> str:
    return literal(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…")
