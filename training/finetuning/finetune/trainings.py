"""The trainings of a fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import finetuning_arguments
from ..data.dataset import TRAIN, VALIDATION
from ..trainer import FinetuningTrainer, train_model
from .base import load_with_head
from .folder import SeedResult
from .job import Job
from .keeping import keep
from .measuring import scores
from .seeds import Trainings

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments


class FinetuneTrainings(Trainings[FinetuningTrainer]):
    """Trains a head and the encoder with every seed.

    Args:
        job: the fine-tuning.
    """

    def __init__(self, job: Job) -> None:
        first, count = job.options.seed, job.options.seeds
        super().__init__(job.folder, job.arguments, job.metric, range(first, first + count))
        self.job = job

    def arguments(self, directory: Path, seed: int) -> TrainingArguments:
        """The arguments of the training of a seed."""
        return finetuning_arguments(self.job.options, directory, seed)

    def load(self, seed: int) -> Any:
        """The base with a head."""
        return load_with_head(self.job.base, self.job.task, seed)

    def train(
        self,
        model: Any,
        arguments: TrainingArguments,
        checkpoint: Path | None,
        callbacks: Sequence[TrainerCallback],
    ) -> FinetuningTrainer:
        """Trains a model, and gives it the weights of the best epoch."""
        job = self.job
        return train_model(
            model,
            job.task,
            job.base.tokenizer,
            job.inputs[TRAIN],
            job.inputs[VALIDATION],
            job.parts[VALIDATION].examples,
            arguments,
            job.settings,
            checkpoint,
            callbacks,
            self.stop,
        )

    def measure(self, trainer: FinetuningTrainer) -> Mapping[str, float | None]:
        """Metrics on validation, on which thresholds are tuned."""
        inputs, examples = self.job.inputs[VALIDATION], self.job.parts[VALIDATION].examples
        logits = trainer.predict_logits(inputs)
        trainer.task = self.job.task.tuned(inputs, logits, examples)
        return scores(trainer.task, inputs, logits, examples)

    def save(self, trainer: FinetuningTrainer, target: Path) -> None:
        """Saves the model with its tokenizer and thresholds."""
        for name, value in trainer.task.decision_settings().items():
            setattr(trainer.model.config, name, value)
        trainer.model.save_pretrained(target)
        self.job.base.tokenizer.save_pretrained(target)

    def keep(self, results: Sequence[SeedResult], best: SeedResult) -> None:
        """Completes the directory with the best model."""
        keep(self.job, results, best)
