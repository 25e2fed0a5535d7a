"""The trainings of all seeds, of which the best is kept; finished and interrupted ones are continued."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llm_jp_modernbert.core.errors import UsageError

from ...pretrain import on_main
from ...run.checkpoints import StopSignals, newest_sound
from ..best_epoch import BestEpochTrainer, lower_is_better
from .folder import MODEL, Folder, SeedResult
from .progress import EpochLines

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments

AnyTrainer = TypeVar("AnyTrainer", bound=BestEpochTrainer)

logger = logging.getLogger(__name__)


class Trainings(ABC, Generic[AnyTrainer]):
    """The trainings of all seeds.

    Args:
        folder: the directory `--out`.
        arguments: arguments of the trainer, with the first seed.
        metric: metric that selects epoch and seed.
        seeds: the seeds.
    """

    def __init__(self, folder: Folder, arguments: TrainingArguments, metric: str, seeds: Sequence[int]) -> None:
        self._folder, self._arguments, self._metric, self._seeds = folder, arguments, metric, seeds
        self._sign = -1 if lower_is_better(arguments, metric) else 1
        self.stop = StopSignals()

    @abstractmethod
    def arguments(self, directory: Path, seed: int) -> TrainingArguments:
        """The arguments of the training of a seed.

        Args:
            directory: directory of its checkpoints.
            seed: the seed.
        """

    @abstractmethod
    def load(self, seed: int) -> Any:
        """The model before the training of a seed."""

    @abstractmethod
    def train(
        self,
        model: Any,
        arguments: TrainingArguments,
        checkpoint: Path | None,
        callbacks: Sequence[TrainerCallback],
    ) -> AnyTrainer:
        """Trains a model, and gives it the weights of the best epoch.

        Args:
            model: what `load` returned.
            arguments: arguments of this seed.
            checkpoint: checkpoint to continue from.
            callbacks: callbacks of the trainer.
        """

    @abstractmethod
    def measure(self, trainer: AnyTrainer) -> Mapping[str, float | None]:
        """Metrics of the trained model on validation."""

    @abstractmethod
    def save(self, trainer: AnyTrainer, target: Path) -> None:
        """Saves the trained model."""

    @abstractmethod
    def keep(self, results: Sequence[SeedResult], best: SeedResult) -> None:
        """Completes the directory with the best model; called on rank 0."""

    def run(self) -> None:
        """Trains the seeds that are not finished, and keeps the best model."""
        with self.stop.listening():
            results = [self._train(seed) for seed in self._seeds]
        best = max(results, key=self._score)
        if math.isinf(self._score(best)):
            raise UsageError(
                f"{self._metric} is undefined after every epoch: the training diverged, or predicts one value. "
                "Lower learning_rate, or train for more epochs, in a different --out."
            )
        on_main(self._arguments, partial(self.keep, results, best))

    def _score(self, result: SeedResult) -> float:
        # Thresholds are tuned after the epochs were compared, so the score may differ from that of the epoch.
        if self._metric in result["metrics"]:
            value = result["metrics"][self._metric]
        else:
            value = next((value for epoch, value in result["scores"] if epoch == result["epoch"]), None)
        return -math.inf if value is None else self._sign * value

    def _train(self, seed: int) -> SeedResult:
        """The result of a seed, trained if it is not finished."""
        directory = self._folder.seed(seed)
        arguments = self.arguments(directory, seed)
        before: SeedResult | None = on_main(arguments, partial(self._folder.result, seed))
        if before is not None:
            if arguments.process_index == 0:
                logger.info("  seed %d was trained earlier", seed)
            return before
        # A signal in the last step of a seed does not stop that seed.
        if received := on_main(arguments, lambda: self.stop.received):
            raise UsageError(
                f"{received}: stopped before seed {seed}. The finished seeds are in {self._folder.unfinished}. Run "
                "the same command again to continue."
            )
        started = time.perf_counter()
        model = self.load(seed)
        on_main(arguments, self._folder.start)
        checkpoint = on_main(arguments, partial(newest_sound, directory))
        lines = EpochLines(f"seed {seed}", self._metric)
        is_main = arguments.process_index == 0
        try:
            with closing(lines):
                trainer = self.train(model, arguments, checkpoint, [lines] if is_main else [])
        except UsageError:
            if is_main:
                self._folder.discard()
            raise
        if trainer.stopping:
            raise UsageError(
                f"{self.stop.received or 'A signal'}: stopped in seed {seed}. Its checkpoint and the finished "
                f"seeds are in {self._folder.unfinished}. Run the same command again to continue."
            )
        metrics = dict(self.measure(trainer))
        log, evaluated = trainer.state.log_history, f"eval_{self._metric}"
        values = [(entry["epoch"], entry[evaluated]) for entry in log if evaluated in entry]
        result: SeedResult = {
            "seed": seed,
            "epoch": max(values, key=lambda point: self._sign * point[1], default=(0.0, 0.0))[0],
            "seconds": time.perf_counter() - started,
            "metrics": metrics,
            "losses": [(entry["epoch"], entry["loss"]) for entry in log if "loss" in entry],
            "scores": values,
        }
        on_main(arguments, partial(self._save, trainer, result))
        return result

    def _save(self, trainer: AnyTrainer, result: SeedResult) -> None:
        self.save(trainer, self._folder.seed(result["seed"]) / MODEL)
        self._folder.keep(result)
