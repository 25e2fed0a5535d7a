"""Plots of a retrieval model: training curves, systems by dataset, and embeddings of several lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llm_jp_modernbert.core.plots import draw_interval, legend_below, literal, panels_of, save, style
from llm_jp_modernbert.core.results import Row

from ..finetuning.finetune.folder import SeedResult
from ..finetuning.finetune.plots import ASSETS, TRAINING, draw_training
from .record import Record

SYSTEMS, LENGTHS = "systems.png", "matryoshka.png"


def draw_all(folder: Path, record: Record, kept: Mapping[tuple[str, str], Row], curves: Sequence[SeedResult]) -> None:
    """Draws the plots into `folder/assets`.

    Args:
        folder: the model's directory.
        record: its record.
        kept: main metric of each system, by part and name of the system.
        curves: all trainings.
    """
    assets = folder / ASSETS
    assets.mkdir(exist_ok=True)
    with style():
        draw_training(assets / TRAINING, record["metric"], record["best_seed"], curves)
        _draw_systems(assets / SYSTEMS, kept)
        if record.get("by_length"):
            _draw_lengths(assets / LENGTHS, record)


def _draw_systems(path: Path, kept: Mapping[tuple[str, str], Row]) -> None:
    parts, systems = (list(dict.fromkeys(key)) for key in zip(*kept, strict=True))
    figure, (axes,) = panels_of(1, height=max(2.4, 1.2 + 0.25 * len(kept)))
    # The kept model is on top in each group.
    for number, system in enumerate(systems):
        for place, part in enumerate(parts):
            row = kept.get((part, system))
            if row is None or row.value is None:
                continue
            label = literal(system) if not place else None
            draw_interval(axes, -place * (len(systems) + 1) - number, row, f"C{number}", label)
    middles = [-place * (len(systems) + 1) - (len(systems) - 1) / 2 for place in range(len(parts))]
    axes.set_yticks(middles, [literal(part) for part in parts], fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    metrics = " or ".join(dict.fromkeys(row.metric for row in kept.values()))
    axes.set_title(f"{metrics} (× 100) with 95 % intervals", fontsize=9)
    legend_below(figure, axes)
    save(figure, path)


def _draw_lengths(path: Path, record: Record) -> None:
    figure, (axes,) = panels_of(1)
    by_length = record.get("by_length", {})
    lengths, values = [int(length) for length in by_length], [100 * value for value in by_length.values()]
    axes.plot(lengths, values, "o-", ms=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, by_length)
    axes.set_xlabel("dimensions")
    axes.set_title(f"{list(record['parts'])[-1]}: nDCG@10 (× 100) of truncated embeddings", fontsize=9)
    save(figure, path)
