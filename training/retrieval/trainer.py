"""Trainers of retrieval models: those of sentence-transformers, which keep the best epoch and resume exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_model, save_model
from sentence_transformers.base.sampler import BatchSamplers, DefaultBatchSampler, NoDuplicatesBatchSampler
from torch import nn

from llm_jp_modernbert.core.errors import UsageError

from ..finetuning.best_epoch import BestEpochTrainer
from ..pretrain import on_main
from ..run.checkpoints import StopSignals
from .arguments import RetrievalArguments
from .job import Job

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments

_WEIGHTS = "model.safetensors"
"""File of a checkpoint with the weights."""

_SMALLEST_SHARE = 0.1
"""Batches of distinct texts with a smaller share of the examples of a full one are left out."""


class ShuffledBatches(DefaultBatchSampler):
    """Batches of all examples in random order.

    The default of sentence-transformers continues a generator, whose state a resumed training does not have.
    """

    def __init__(self, dataset: Sized, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset, *args, **kwargs)
        self._size = len(dataset)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self._size, generator=torch.Generator().manual_seed(self.seed + self.epoch)).tolist()
        batches = (order[start : start + self.batch_size] for start in range(0, self._size, self.batch_size))
        return islice(batches, len(self))


class DistinctBatches(NoDuplicatesBatchSampler):
    """Batches without equal texts, as many as are needed for almost all examples.

    If many examples share a passage, there are more batches than sentence-transformers announces, and Trainer would
    leave out the rest of an epoch. Only batches with hardly any negatives are left out, in which the same few passages
    remain; their examples differ between epochs.
    """

    _count: int | None = None

    def __iter__(self) -> Iterator[list[int]]:
        return islice(super().__iter__(), len(self))

    def __len__(self) -> int:
        if self._count is None:
            # Iterating asks for the length, which is at least this one.
            self._count = super().__len__()
            # The same for an interrupted training, which resumes in a later epoch.
            epoch, self.epoch = self.epoch, 0
            sizes = [len(batch) for batch in super().__iter__()]
            self.epoch = epoch
            self._count = sum(size >= _SMALLEST_SHARE * max(sizes) for size in sizes)
        return self._count


class RetrievalTrainer(BestEpochTrainer):
    """Extends a trainer of sentence-transformers.

    Args:
        job: what all seeds have in common.
        model: the model.
        arguments: arguments of the trainer.
        callbacks: further callbacks.
        stop: receives signals that end training after the current step with a checkpoint.
    """

    training_args_class = RetrievalArguments
    model: Any
    args: RetrievalArguments

    def __init__(
        self,
        job: Job,
        model: Any,
        arguments: TrainingArguments,
        callbacks: Sequence[TrainerCallback],
        stop: StopSignals,
    ) -> None:
        self.job = job
        train, form = job.data.train.examples, job.data.train.form
        settings: dict[str, Any] = {
            "loss": job.kind.loss(model, form, job.tokens_per_batch),
            # sentence-transformers requires an evaluator; `measure` takes its place.
            "evaluator": [],
        }
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=job.kind.columns(train, form),
            callbacks=list(callbacks),
            **settings,
        )
        self.keep_best(job.metric, job.options.patience, stop)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Adds none: `release` writes the model card."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches of this rank in an epoch."""
        return len(self.callback_handler.train_dataloader)  # type: ignore[arg-type]

    def get_batch_sampler(self, *args: Any, **kwargs: Any) -> DefaultBatchSampler:
        """The order of the training examples: a function of the seed and the epoch."""
        if self.args.data_seed is not None:
            kwargs["seed"] = self.args.data_seed
        is_shuffled = self.args.batch_sampler == BatchSamplers.BATCH_SAMPLER
        self.sampler = (ShuffledBatches if is_shuffled else DistinctBatches)(*args, **kwargs)
        if not len(self.sampler):
            raise UsageError(
                f"per_device_train_batch_size: no batch has {self.sampler.batch_size:,} different texts. Set it "
                "lower, or batch_sampler=batch_sampler."
            )
        return self.sampler

    def begin_epoch(self, epoch: int) -> None:
        """Tells the sampler the epoch, also if accelerate has wrapped it twice to skip batches."""
        self.sampler.set_epoch(epoch)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward passes of a batch."""
        self.seed_batch()
        return super().training_step(model, inputs, num_items_in_batch)

    def measure(self) -> Mapping[str, float | None]:
        """Metrics on validation, computed by rank 0."""
        metrics = on_main(self.args, self._measure)
        return {**metrics, "examples": self.job.benchmarks["validation"].size}

    def _measure(self) -> dict[str, float | None]:
        # A diverged training ranks nothing.
        if not all(weight.isfinite().all() for weight in self.model.parameters()):
            return {self.metric: None}
        self.model.eval()
        return self.job.measure(self.model).metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the weights into a checkpoint."""
        if self.args.should_save:
            folder = Path(str(output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            save_model(self.model, str(folder / _WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # Trainer has no public way to read what `save_model` writes.
        load_model(self.model, Path(resume_from_checkpoint) / _WEIGHTS)


def train_model(
    job: Job,
    model: Any,
    arguments: TrainingArguments,
    checkpoint: Path | None,
    callbacks: Sequence[TrainerCallback],
    stop: StopSignals,
) -> RetrievalTrainer:
    """Trains a model, and keeps the weights of the epoch with the best score.

    Args:
        job: what all seeds have in common.
        model: a model of `job.kind`.
        arguments: arguments of the trainer; checkpoints are written to `output_dir`.
        checkpoint: checkpoint that training continues from, see `run.checkpoints.newest_sound`.
        callbacks: further callbacks.
        stop: receives signals that end training after the current step with a checkpoint.

    Returns:
        The trainer, with the weights of the best epoch in `model`. If a signal ended training, `stopping` is true
        and `model` is unfinished.

    Raises:
        CheckpointError: a checkpoint could not be written or read.
    """
    trainer_class = type("RetrievalTrainer", (RetrievalTrainer, job.kind.trainer_class), {})
    trainer: RetrievalTrainer = trainer_class(job, model, arguments, callbacks, stop)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer
