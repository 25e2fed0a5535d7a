"""Everything that a fine-tuning works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..best_epoch import lower_is_better
from ..data.dataset import TRAIN, Dataset, Examples
from ..head_task import HeadTask, ModelInput
from ..options import FinetuneOptions
from ..trainer import TrainerSettings, tokens_at_once
from .base import Base
from .folder import Folder
from .measuring import class_weights

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(frozen=True)
class Job:
    """A fine-tuning.

    Attributes:
        options: options of the command.
        base: the model to start from.
        dataset: the data.
        inputs: model inputs of each part.
        folder: its directory.
        arguments: arguments of the Trainer, with the first seed.
    """

    options: FinetuneOptions
    base: Base
    dataset: Dataset
    inputs: Mapping[str, Sequence[ModelInput]]
    folder: Folder
    arguments: TrainingArguments

    @property
    def task(self) -> HeadTask[Any]:
        """The type of task."""
        return self.dataset.task

    @property
    def parts(self) -> Mapping[str, Examples]:
        """The parts of the data."""
        return self.dataset.parts

    @property
    def metric(self) -> str:
        """Metric that selects epoch and seed."""
        return (self.arguments.metric_for_best_model or self.task.metric).removeprefix("eval_")

    @property
    def lower_is_better(self) -> bool:
        """Direction of `metric`."""
        return lower_is_better(self.arguments, self.metric)

    @cached_property
    def settings(self) -> TrainerSettings:
        """Settings of the trainer."""
        options = self.options
        return TrainerSettings(
            tokens_per_batch=options.tokens_per_batch or tokens_at_once(self.arguments.device),
            class_weights=class_weights(self.task, self.parts[TRAIN].examples, options.class_weights),
            layer_decay=options.layer_decay,
            patience=options.patience,
            lora_rank=options.lora_rank if options.lora else None,
        )

    def tokens(self, part: str) -> np.ndarray:
        """`(examples,)` tokens of each example of a part before truncation."""
        tokens = np.zeros(len(self.parts[part].examples), np.int64)
        for row in self.inputs[part]:
            tokens[row.example] = max(tokens[row.example], row.tokens)
        return tokens

    def too_long(self, part: str) -> list[str]:
        """Places of the examples that are longer than an input, with their tokens."""
        return [
            f"{place} ({tokens:,} tokens)"
            for place, tokens in zip(self.parts[part].places, self.tokens(part).tolist(), strict=True)
            if tokens > self.base.max_length
        ]
