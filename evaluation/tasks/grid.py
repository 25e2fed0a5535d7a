"""Resumable grid search: each point is trained once, and only its scores are kept.

Several processes share a grid through its folder. A file lock marks the point that a process trains; the lock is
released when its process ends, so the point of a killed process is trained by another process or by the next call.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json, write_whole

from .task import Progress

logger = logging.getLogger(__name__)

_MAX_BYTES = 2**30


@dataclass(frozen=True)
class Point:
    """One choice of hyperparameters.

    Attributes:
        learning_rate: peak learning rate.
        epochs: passes over the training examples.
    """

    learning_rate: float
    epochs: int

    def __str__(self) -> str:
        return f"{self.learning_rate!r}x{self.epochs}"


@dataclass(frozen=True)
class Trial:
    """Result of a grid point.

    Attributes:
        point: the hyperparameters.
        scores: metrics of each split; None for an undefined metric.
        predictions: predictions for the examples of the reported split.
    """

    point: Point
    scores: dict[str, dict[str, float | None]]
    predictions: list[Any]


def points(learning_rates: Sequence[float], epochs: Sequence[int]) -> list[Point]:
    """All combinations."""
    return [Point(*choice) for choice in product(learning_rates, epochs)]


def search(
    grid: Sequence[Point], folder: Path, train: Callable[[Point, Progress], Trial], progress: Progress, wait: bool
) -> list[Trial]:
    """Trains the points that have no result yet.

    Args:
        grid: the points.
        folder: directory of the results; created if missing.
        train: trains and scores one point.
        progress: called with the completed share of the grid.
        wait: whether to wait for points that other processes are training.

    Returns:
        All points in order; without `wait`, those that are finished.
    """
    from filelock import FileLock, Timeout

    files = {point: folder / f"{point}.json" for point in grid}
    trials: dict[Point, Trial] = {}

    def attempt(point: Point, timeout: float) -> None:
        while True:
            # Another process that finished the same measurement may delete the folder at any moment.
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(files[point].with_suffix(".lock"))
            try:
                lock.acquire(timeout=timeout)
                break
            except Timeout:
                return
            except FileNotFoundError:
                continue
        try:
            if files[point].is_file():
                try:
                    saved = read_json(files[point], Trial, max_bytes=_MAX_BYTES)
                    trials[point] = replace(saved, point=point)
                    return
                except UsageError as error:
                    logger.warning("%s The point is trained again.", error)
            done = sum(path.is_file() for path in files.values())
            trials[point] = train(point, lambda share: progress((done + share) / len(grid)))
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(files[point], json.dumps(asdict(trials[point]), ensure_ascii=False))
        finally:
            lock.release()

    for timeout in (0, -1) if wait else (0,):
        for point in grid:
            if point not in trials:
                attempt(point, timeout)
    return [trials[point] for point in grid if point in trials]


def best(trials: Sequence[Trial], split: str, metric: str) -> Trial:
    """The first trial with the highest score; an undefined score ranks last."""

    def score(trial: Trial) -> float:
        value = trial.scores[split][metric]
        return float("-inf") if value is None else value

    return max(trials, key=score)
