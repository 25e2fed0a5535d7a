"""The trainings of a retrieval model with all seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..finetuning.finetune.folder import SeedResult
from ..finetuning.finetune.seeds import Trainings
from .arguments import retrieval_arguments
from .job import Job
from .keeping import keep
from .trainer import RetrievalTrainer, train_model

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments


class RetrievalTrainings(Trainings[RetrievalTrainer]):
    """Trains a model with every seed.

    Args:
        job: the training.
    """

    def __init__(self, job: Job) -> None:
        first, count = job.options.seed, job.options.seeds
        super().__init__(job.folder, job.arguments, job.metric, range(first, first + count))
        self.job = job

    def arguments(self, directory: Path, seed: int) -> TrainingArguments:
        """The arguments of the training of a seed."""
        defaults = self.job.kind.trainer_arguments(self.job.data.train.form)
        return retrieval_arguments(self.job.options, directory, seed, defaults)

    def load(self, seed: int) -> Any:
        """The base as a model of sentence-transformers."""
        return self.job.kind.build(self.job.base, seed, self.job.data.train.form)

    def train(
        self,
        model: Any,
        arguments: TrainingArguments,
        checkpoint: Path | None,
        callbacks: Sequence[TrainerCallback],
    ) -> RetrievalTrainer:
        """Trains a model, and gives it the weights of the best epoch."""
        return train_model(self.job, model, arguments, checkpoint, callbacks, self.stop)

    def measure(self, trainer: RetrievalTrainer) -> Mapping[str, float | None]:
        """Metrics of the best epoch on validation."""
        return trainer.best_metrics

    def save(self, trainer: RetrievalTrainer, target: Path) -> None:
        """Saves the model."""
        self.job.kind.save(trainer.model, target)

    def keep(self, results: Sequence[SeedResult], best: SeedResult) -> None:
        """Completes the directory with the best model."""
        keep(self.job, results, best)
