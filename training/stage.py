"""One stage of pre-training: rows of one length, one learning-rate schedule."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from .callbacks import ProgressCallback
from .dataset import PackedDataset, collate
from .masking import Masking
from .optimization import adamw
from .packing import PackedRows
from .schedule import Schedule


@dataclass(frozen=True)
class Stage:
    """Settings of a stage.

    Attributes:
        name: what it is called in progress and reports.
        sequence_length: tokens of a row, special tokens included.
        tokens_per_step: tokens of a batch; a whole number of rows of at most so many tokens, but at least one.
        steps: optimizer steps at most.
        learning_rate: its peak.
        final_learning_rate: where it ends, as a share of the peak.
        warmup_share: share of the steps in which the learning rate rises.
        weight_decay: of everything but norms and biases.
        seconds: time for training at most, of which at least one step is made; None for no limit.
    """

    name: str
    sequence_length: int
    tokens_per_step: int
    steps: int
    learning_rate: float
    final_learning_rate: float = 0.0
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    seconds: float | None = None

    @property
    def rows_per_step(self) -> int:
        """Rows of a batch."""
        return max(1, self.tokens_per_step // self.sequence_length)


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Attributes:
        stage: its settings.
        steps: optimizer steps that were taken.
        seconds: time that training took.
        tokens: tokens that the model read.
        epochs: how often it read the whole corpus.
        losses: `(step, training loss since the last entry, in nats)`.
    """

    stage: Stage
    steps: int
    seconds: float
    tokens: int
    epochs: float
    losses: Sequence[tuple[int, float]]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for a report."""
        plain = asdict(self)
        settings = plain.pop("stage")
        return {**plain, "settings": settings}


def run_stage(
    model: PreTrainedModel,
    rows: PackedRows,
    masking: Masking,
    stage: Stage,
    seed: int,
    first_epoch: int = 0,
    progress: ProgressCallback | None = None,
    log_every: int = 10,
) -> StageResult:
    """Trains a model in place for one stage.

    Args:
        model: a masked language model that takes packed input.
        rows: the training text, packed to `stage.sequence_length`.
        masking: the training objective.
        stage: the settings.
        seed: seed of order, masks and dropout; with it and the same number of threads the result is the same.
        first_epoch: number of the first epoch, where an earlier stage has used some.
        progress: shows it.
        log_every: steps between two entries of the losses.

    Raises:
        ValueError: no rows, or no steps.
    """
    if stage.steps < 1:
        raise ValueError(f"{stage.name}: {stage.steps} steps are none; take at least 1.")
    schedule = Schedule(stage.steps, stage.seconds, stage.warmup_share, stage.final_learning_rate)
    optimizer = adamw(model, stage.learning_rate, stage.weight_decay)
    callbacks: list[TrainerCallback] = [schedule]
    if progress is not None:
        progress.follow(schedule.progress)
        callbacks.append(progress)
    data = PackedDataset(rows, masking, stage.steps * stage.rows_per_step, seed, first_epoch)
    counter = _TokenCounter()
    with tempfile.TemporaryDirectory() as nothing_is_saved_here:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=nothing_is_saved_here,
                max_steps=stage.steps,
                per_device_train_batch_size=stage.rows_per_step,
                max_grad_norm=1.0,
                seed=seed,
                # The dataset is in the order of the run already.
                train_sampling_strategy="sequential",
                remove_unused_columns=False,
                logging_steps=log_every,
                logging_nan_inf_filter=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=next(model.parameters()).is_cuda,
            ),
            train_dataset=data,
            data_collator=counter,
            optimizers=(optimizer, schedule.scheduler(optimizer)),
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    steps = trainer.state.global_step
    losses = [(int(entry["step"]), float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry]
    return StageResult(stage, steps, seconds, counter.tokens(steps), steps * stage.rows_per_step / len(rows), losses)


class _TokenCounter:
    """The collator, counting."""

    def __init__(self) -> None:
        self._of_batch: list[int] = []

    def tokens(self, steps: int) -> int:
        """Tokens of the first batches: the loader reads one ahead, which a run that time ends does not train on."""
        return sum(self._of_batch[:steps])

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate(samples)
        self._of_batch.append(batch["input_ids"].numel())
        return batch
