"""Grid search that survives interruption: each point is trained once, and only its scores are kept.

Several processes share a grid through its folder: a point belongs to whom its lock belongs to, and a lock goes with
its process. So a point whose process died is trained by another, or by the next call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.files import write_whole

from .task import Progress


@dataclass(frozen=True)
class Point:
    """One choice of hyperparameters.

    Attributes:
        learning_rate: at its highest.
        epochs: passes over the training examples.
    """

    learning_rate: float
    epochs: int

    def __str__(self) -> str:
        return f"{self.learning_rate:g}x{self.epochs}"


@dataclass(frozen=True)
class Tried:
    """What a point gave.

    Attributes:
        point: the choice.
        scores: for each part of the data the figures by their names; None where one is undefined.
        predictions: for each example of the part that is reported.
    """

    point: Point
    scores: dict[str, dict[str, float | None]]
    predictions: list[Any]


def points(learning_rates: Sequence[float], epochs: Sequence[int]) -> list[Point]:
    """All choices."""
    return [Point(*choice) for choice in product(learning_rates, epochs)]


def search(
    grid: Sequence[Point], folder: Path, train: Callable[[Point, Progress], Tried], progress: Progress, first: bool
) -> list[Tried]:
    """Trains the points that nobody has trained.

    Args:
        grid: the points.
        folder: of their results; made if it is not there.
        train: trains and scores one.
        progress: is told the share of the grid.
        first: whether this process waits for the points that others train.

    Returns:
        All points in their order, for the first process; for another those that it met finished.
    """
    from filelock import FileLock, Timeout

    paths = {point: folder / f"{point}.json" for point in grid}

    found: dict[Point, Tried] = {}

    def attempt(point: Point, patience: float) -> None:
        # Another call for the same result may have come first and cleared the folder, at any moment.
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(paths[point].with_suffix(".lock"))
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            return
        except FileNotFoundError:
            attempt(point, patience)
            return
        try:
            tried = _kept(point, paths[point])
            if tried is None:
                done = sum(path.is_file() for path in paths.values())
                tried = train(point, lambda share: progress((done + share) / len(grid)))
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(paths[point], json.dumps(asdict(tried), ensure_ascii=False))
            found[point] = tried
        finally:
            lock.release()

    for point in grid:
        attempt(point, patience=0)
    if first:
        for point in grid:
            if point not in found:
                attempt(point, patience=-1)
    return [found[point] for point in grid if point in found]


def best(tried: Sequence[Tried], part: str, metric: str) -> Tried:
    """The point with the greatest score on a part; the first of several, and never one without a score."""
    return max(tried, key=lambda found: _or_least(found.scores[part][metric]))


def _or_least(score: float | None) -> float:
    return float("-inf") if score is None else score


def _kept(point: Point, path: Path) -> Tried | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Tried(point, kept["scores"], kept["predictions"])
