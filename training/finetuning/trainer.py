"""Trainer of fine-tuning: transformers' Trainer with packed batches, and evaluation by `HeadTask.scores`.

A step has `per_device_train_batch_size` examples, whatever their lengths. It is computed in pieces of at most
`tokens_per_batch` tokens, whose losses are weighted so that the gradient is that of the mean over the whole step, over
all pieces, accumulated batches and ranks. `best_epoch` describes the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from llm_jp_modernbert.core.errors import UsageError

from ..run.checkpoints import StopSignals
from .batches import Batches, StepSampler, lengths_of, predict_logits
from .best_epoch import BestEpochTrainer
from .head_task import HeadTask, ModelInput
from .lora import merged, with_adapters
from .losses import items_of, summed_loss, targets_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainerSettings:
    """Settings that `TrainingArguments` does not have.

    Attributes:
        tokens_per_batch: maximum tokens computed at once; does not change the result.
        class_weights: weight of each label in the loss; empty for equal weights.
        layer_decay: learning rate of each layer relative to the next one.
        patience: evaluations without a better score after which training stops; 0 for never.
        lora_rank: rank of adapters that are trained instead of the encoder; None for none.
    """

    tokens_per_batch: int = 4096
    class_weights: tuple[float, ...] = ()
    layer_decay: float = 1.0
    patience: int = 0
    lora_rank: int | None = None


class FinetuningTrainer(BestEpochTrainer):
    """Trains a model with a head on the inputs of a task.

    Args:
        model: a model with the head of the task.
        task: type of task.
        tokenizer: saved with checkpoints; pads the batches of models that do not read packed ones.
        train: training inputs.
        validation: inputs of `validation_examples`; empty for none.
        validation_examples: examples to evaluate on.
        arguments: arguments of transformers' Trainer.
        settings: our own settings.
        callbacks: further callbacks.
        stop: receives signals that end training after the current step with a checkpoint.
    """

    model: PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel,
        task: HeadTask[Any],
        tokenizer: PreTrainedTokenizerBase,
        train: Sequence[ModelInput],
        validation: Sequence[ModelInput],
        validation_examples: Sequence[Any],
        arguments: TrainingArguments,
        settings: TrainerSettings,
        callbacks: Sequence[TrainerCallback] = (),
        stop: StopSignals | None = None,
    ) -> None:
        self.task, self.settings = task, settings
        self.validation, self.validation_examples = validation, validation_examples
        self.batches = Batches.of(model, task, tokenizer, settings.tokens_per_batch)
        self.weights = torch.tensor(settings.class_weights) if settings.class_weights else None
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=list(train),
            eval_dataset=list(validation) or None,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
        self.sampler = StepSampler(
            len(train),
            arguments.per_device_train_batch_size,
            None if arguments.train_sampling_strategy == "sequential" else seed,
            arguments.process_index,
            arguments.world_size,
            arguments.dataloader_drop_last,
            lambda: self.state.global_step // self.steps_per_epoch,
        )
        if not len(self.sampler):
            raise UsageError(
                f"dataloader_drop_last: {len(train):,} training examples do not fill a batch of "
                f"{self.sampler.size:,}. Set per_device_train_batch_size lower, or leave dataloader_drop_last out."
            )
        # The loss is divided by the items of the whole step.
        self.model_accepts_loss_kwargs = True
        metric = (arguments.metric_for_best_model or task.metric).removeprefix("eval_")
        self.keep_best(metric, settings.patience, stop)
        if arguments.metric_for_best_model and validation:
            task.check_metric(self.metric, validation_examples)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of this rank, each a list of pieces."""
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=self.sampler,
            collate_fn=self._collate,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=workers > 0 and self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
        )

    @property
    def batches_per_epoch(self) -> int:
        """Batches of this rank in an epoch."""
        return len(self.sampler)

    @property
    def has_validation(self) -> bool:
        """Whether there are validation examples."""
        return bool(self.validation)

    def _collate(self, rows: list[ModelInput]) -> dict[str, Any]:
        """The pieces of a batch, and what their summed losses are divided by."""
        # All ranks must take part in the backward pass, but an empty batch counts for nothing.
        counted = bool(rows)
        rows = rows or [self.train_dataset[0]]  # type: ignore[index]
        pieces = []
        for piece in self.batches.pieces(rows):
            part = [rows[place] for place in piece]
            targets = targets_of(self.task, part)
            pieces.append(
                {
                    "inputs": self.batches.inputs(part),
                    "targets": targets,
                    "lengths": lengths_of(part),
                    "items": counted * items_of(self.task, targets, self.weights),
                    "scale": float(counted),
                }
            )
        return {"pieces": pieces}

    def items_of(self, batches: list[dict[str, Any]]) -> float:
        """The items that count in the loss of a step."""
        return float(sum(piece["items"] for batch in batches for piece in batch["pieces"]))

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward passes of the pieces of a batch; ranks synchronize in the last one."""
        self.seed_batch()
        *first, last = inputs["pieces"]
        loss = torch.zeros((), device=self.args.device)
        for piece in first:
            with self.accelerator.no_sync(model):
                loss += super().training_step(model, piece, num_items_in_batch)
        return loss + super().training_step(model, last, num_items_in_batch)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a piece as its share of the step's mean loss."""
        output = model(**inputs["inputs"])
        logits = self.batches.logits(output, inputs["inputs"], len(inputs["lengths"]))
        weights = None if self.weights is None else self.weights.to(logits.device)
        smoothing = self.args.label_smoothing_factor
        total = summed_loss(self.task, logits, inputs["targets"], inputs["lengths"], weights, smoothing)
        # Ranks average their gradients.
        loss = total * (inputs["scale"] * self.accelerator.num_processes / num_items_in_batch)
        return (loss, output) if return_outputs else loss

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        """Creates the optimizer; with `layer_decay`, lower layers get lower learning rates."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(*args)
        if created and self.settings.layer_decay != 1.0:
            names = {parameter: name for name, parameter in self.model.named_parameters()}
            layers = int(self.model.config.num_hidden_layers)
            groups: dict[tuple[int, int], dict[str, Any]] = {}
            for place, group in enumerate(optimizer.param_groups):
                for parameter in group["params"]:
                    distance = _distance(names[parameter], layers)
                    rate = group["lr"] * self.settings.layer_decay**distance
                    part = groups.setdefault((distance, place), {**group, "params": [], "lr": rate})
                    part["params"].append(parameter)
            # The head's first: Trainer logs the learning rate of the first group.
            optimizer.param_groups[:] = [groups[key] for key in sorted(groups)]
        return optimizer

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Operations of a batch, by transformers' estimate."""
        return sum(super(FinetuningTrainer, self).floating_point_ops(piece["inputs"]) for piece in inputs["pieces"])

    def measure(self) -> dict[str, float | None]:
        """Loss and metrics on the validation examples, computed by all ranks together.

        Raises:
            ValueError: no validation examples were given.
        """
        if not self.validation:
            raise ValueError("no validation examples to evaluate on.")
        logits = self.predict_logits(self.validation)
        metrics: dict[str, float | None] = {"loss": None, self.metric: None}
        # A diverged training predicts nothing.
        if all(np.isfinite(values).all() for values in logits):
            predictions = self.task.predict(self.validation, logits, self.validation_examples)
            values = [prediction.value for prediction in predictions]
            metrics = {"loss": self._loss_of(logits), **self.task.scores(self.validation_examples, values)}
        return {**metrics, "examples": len(self.validation_examples)}

    def _loss_of(self, logits: Sequence[np.ndarray]) -> float:
        """The mean loss of the validation inputs."""
        targets = targets_of(self.task, self.validation)
        joined = torch.from_numpy(np.concatenate(logits) if logits[0].ndim > 1 else np.stack(logits))
        total = summed_loss(self.task, joined, targets, lengths_of(self.validation), self.weights)
        return float(total) / max(items_of(self.task, targets, self.weights), 1e-9)

    def predict_logits(self, inputs: Sequence[ModelInput]) -> list[np.ndarray]:
        """Logits of inputs, as `predict_logits`, computed by all ranks together; every rank gets all of them."""
        ranks, rank = self.args.world_size, self.args.process_index
        if ranks == 1:
            return predict_logits(self.model, inputs, self.batches)
        shares = [
            sorted(range(len(inputs)), key=lambda place: -lengths_of([inputs[place]])[0])[first::ranks]
            for first in range(ranks)
        ]
        own = predict_logits(self.model, [inputs[place] for place in shares[rank]], self.batches)
        parts: list[np.ndarray] = gather_object(own)
        order = [place for share in shares for place in share]
        return [parts[place] for place in np.argsort(order)]


def tokens_at_once(device: torch.device) -> int:
    """Default of `TrainerSettings.tokens_per_batch`: enough to use a device well, without need for much memory."""
    return 4096 if device.type == "cpu" else 16384


def train_model(
    model: PreTrainedModel,
    task: HeadTask[Any],
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[ModelInput],
    validation: Sequence[ModelInput],
    validation_examples: Sequence[Any],
    arguments: TrainingArguments,
    settings: TrainerSettings,
    checkpoint: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    stop: StopSignals | None = None,
) -> FinetuningTrainer:
    """Trains a model, and keeps the weights of the epoch with the best score of `task.metric`.

    Args:
        model: a model with the head of the task.
        task: type of task.
        tokenizer: the model's tokenizer.
        train: training inputs, see `HeadTask.encode`.
        validation: inputs of `validation_examples`; empty to keep the last epoch.
        validation_examples: examples that select the epoch.
        arguments: arguments of transformers' Trainer; checkpoints are written to `output_dir`.
        settings: our own settings.
        checkpoint: checkpoint that training continues from, see `run.checkpoints.newest_sound`.
        callbacks: further callbacks.
        stop: receives signals that end training after the current step with a checkpoint.

    Returns:
        The trainer, with the weights of the best epoch in `model`, with adapters merged, and the epochs in
        `state.log_history`. If a signal ended training, `stopping` is true and `model` is unfinished.

    Raises:
        UsageError: peft is not installed, or `metric_for_best_model` does not exist or is undefined.
        CheckpointError: a checkpoint could not be written or read.
    """
    if settings.lora_rank is not None:
        # Adapters start from random weights.
        set_seed(arguments.seed)
        model = with_adapters(model, settings.lora_rank)
    trainer = FinetuningTrainer(
        model, task, tokenizer, train, validation, validation_examples, arguments, settings, callbacks, stop
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if settings.lora_rank is not None and not trainer.stopping:
        trainer.model = merged(trainer.model)
    return trainer


def _distance(name: str, layers: int) -> int:
    """Number of layers from a parameter to the head: 0 for the head, 1 for the last layer, and so on."""
    if "embeddings." in name:
        return layers + 1
    layer = re.search(r"\blayers?\.(\d+)\.", name)
    return 0 if layer is None else layers - int(layer[1])
