"""Trainer of fine-tuning: transformers' Trainer with packed batches, and evaluation by `HeadTask.scores`.

A step has `per_device_train_batch_size` examples, whatever their lengths. It is computed in pieces of at most
`tokens_per_batch` tokens, whose losses are weighted so that the gradient is that of the mean over the whole step, over
all pieces, accumulated batches and ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from .batches import Batches, StepSampler, documents, labels_tokens
from .head_task import HeadTask, ModelInput
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


class FinetuningTrainer(Trainer):
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
        self.sampler = StepSampler(
            len(train),
            arguments.per_device_train_batch_size,
            arguments.seed if arguments.data_seed is None else arguments.data_seed,
            arguments.process_index,
            arguments.world_size,
            arguments.dataloader_drop_last,
            lambda: self.state.global_step // self._steps_per_epoch,
        )
        # The loss is divided by the items of the whole step.
        self.model_accepts_loss_kwargs = True
        self.remove_callback(PrinterCallback)

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
    def _steps_per_epoch(self) -> int:
        return max(1, -(-len(self.sampler) // self.args.gradient_accumulation_steps))

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
                    "lengths": _lengths(part),
                    "items": counted * items_of(self.task, targets, self.weights),
                    "scale": float(counted),
                }
            )
        return {"pieces": pieces}

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor]:
        """The batches of an optimizer step, and the items that the sum of their losses is divided by, over all
        ranks."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        for place, batch in enumerate(batches):
            batch["place"] = place
        items = torch.tensor(sum(piece["items"] for batch in batches for piece in batch["pieces"]), device=device)
        return batches, self.accelerator.reduce(items).clamp(min=1e-9)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward passes of the pieces of a batch; ranks synchronize in the last one.

        Dropout is a function of the seed, the step, the batch in it and the rank, so resuming needs no generator
        state.
        """
        place = (self.args.seed, self.state.global_step, inputs["place"], self.args.process_index)
        set_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
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

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Operations of a batch, by transformers' estimate."""
        return sum(super(FinetuningTrainer, self).floating_point_ops(piece["inputs"]) for piece in inputs["pieces"])

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and metrics on the validation examples, computed by all ranks together.

        Returns:
            `eval_loss` and `eval_METRIC`; NaN for an undefined metric.
        """
        logits = self.predict_logits(self.validation)
        predictions = self.task.predict(self.validation, logits, self.validation_examples)
        scores = self.task.scores(self.validation_examples, [prediction.value for prediction in predictions])
        metrics = {"loss": self._loss_of(self.validation, logits), **scores}
        finite = all(np.isfinite(values).all() for values in logits)
        result = {
            f"{metric_key_prefix}_{name}": float("nan") if value is None or not finite else value
            for name, value in metrics.items()
        }
        # JSON has no NaN.
        self.log({name: value for name, value in result.items() if math.isfinite(value)})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, result)
        return result

    def _loss_of(self, rows: Sequence[ModelInput], logits: Sequence[np.ndarray]) -> float:
        targets = targets_of(self.task, rows)
        joined = torch.from_numpy(np.concatenate(logits) if logits[0].ndim > 1 else np.stack(logits))
        total = summed_loss(self.task, joined, targets, _lengths(rows), self.weights)
        return float(total) / max(items_of(self.task, targets, self.weights), 1e-9)

    def predict_logits(self, inputs: Sequence[ModelInput]) -> list[np.ndarray]:
        """Logits of inputs, as `predict_logits`, computed by all ranks together; every rank gets all of them."""
        ranks, rank = self.args.world_size, self.args.process_index
        if ranks == 1:
            return predict_logits(self.model, inputs, self.batches)
        shares = [
            sorted(range(len(inputs)), key=lambda place: -_lengths([inputs[place]])[0])[r::ranks] for r in range(ranks)
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

    Returns:
        The trainer, with the weights of the best epoch in `model` and the epochs in `state.log_history`.
    """
    trainer = FinetuningTrainer(
        model, task, tokenizer, train, validation, validation_examples, arguments, settings, callbacks
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer


def predict_logits(model: nn.Module, inputs: Sequence[ModelInput], batches: Batches) -> list[np.ndarray]:
    """Logits of inputs, in their order.

    Args:
        model: a model with the head of the task; it is set to evaluation mode meanwhile.
        inputs: inputs of any lengths.
        batches: how they are given to the model.

    Returns:
        One float32 array per input, as in `HeadTask.predict`.
    """
    device = next(model.parameters()).device
    predicted: dict[int, np.ndarray] = {}
    was_training = model.training
    model.eval()
    try:
        for piece in batches.pieces(inputs):
            rows = [inputs[place] for place in piece]
            tensors = {
                key: value.to(device) if isinstance(value, torch.Tensor) else value
                for key, value in batches.inputs(rows).items()
            }
            with torch.no_grad():
                logits = batches.logits(model(**tensors), tensors, len(rows)).cpu()
            parts = logits.split(_lengths(rows)) if labels_tokens(batches.task) else logits
            predicted.update(zip(piece, (part.numpy() for part in parts), strict=True))
    finally:
        model.train(was_training)
    return [predicted[place] for place in range(len(inputs))]


def _lengths(rows: Sequence[ModelInput]) -> list[int]:
    """Number of tokens of each input."""
    return [sum(len(document["input_ids"]) for document in documents(row)) for row in rows]
