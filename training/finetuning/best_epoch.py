"""Trainers that keep the best epoch, write atomic checkpoints, stop after a signal and resume exactly.

Each evaluation may find a better model, whose weights are kept in memory and in the checkpoints. Randomness is a
function of the seed and the step, so a resumed training equals an uninterrupted one.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from ..checkpointing import CheckpointWriter, read_state
from ..recipe.schedule import STEP_COUNTS, Schedule
from ..run.checkpoints import StopSignals

_BEST = "best.safetensors"
"""File of a checkpoint with the weights of the best evaluation."""


def lower_is_better(arguments: TrainingArguments, metric: str) -> bool:
    """Direction of the metric that compares evaluations."""
    if arguments.greater_is_better is None:
        return metric.endswith("loss")
    return not arguments.greater_is_better


class BestEpochTrainer(Trainer):
    """A Trainer that keeps the weights of the best evaluation. Subclasses call `keep_best` when they are initialized.

    Attributes:
        best_weights: trained weights of the best evaluation so far, by name; empty before the first one.
        metric: metric that compares evaluations.
        stop: receives signals that end training after the current step with a checkpoint.
    """

    def keep_best(self, metric: str, patience: int, stop: StopSignals | None) -> None:
        """Prepares training.

        Args:
            metric: metric that compares evaluations.
            patience: evaluations without a better score after which training stops; 0 for never.
            stop: receives signals that end training after the current step with a checkpoint.
        """
        self.metric, self._patience = metric, patience
        self.stop, self._stop_requested = stop or StopSignals(), False
        self.best_weights: dict[str, torch.Tensor] = {}
        self._batches = count()
        self.checkpoints = CheckpointWriter(
            self.args, self.accelerator.wait_for_everyone, "run the same command again"
        )
        # After transformers' own, whose decisions it changes; before others, which find a checkpoint complete.
        self.callback_handler.callbacks.insert(1, _FlowCallback(self))
        self.remove_callback(PrinterCallback)

    @property
    @abstractmethod
    def batches_per_epoch(self) -> int:
        """Batches of this rank in an epoch."""

    @property
    def has_validation(self) -> bool:
        """Whether there is anything to evaluate on."""
        return True

    @abstractmethod
    def measure(self) -> Mapping[str, float | None]:
        """Metrics of the model, the same on all ranks; None for an undefined one."""

    def items_of(self, batches: list[Any]) -> float | None:
        """Number that the summed losses of the batches of a step are divided by; None if their mean is taken."""
        return None

    @property
    def best_metrics(self) -> dict[str, float]:
        """Metrics of the best evaluation that are defined."""
        after = self._evaluations_after_best()
        if after is None:
            return {}
        entry = self._evaluations()[-1 - after]
        names = [name for name in entry if name.startswith("eval_") and name != "eval_examples"]
        return {name.removeprefix("eval_"): entry[name] for name in names}

    @property
    def stopping(self) -> bool:
        """Whether a signal ends training before its end, the same on all ranks."""
        # A single rank has no other ranks to agree with, so it stops at once.
        requested = self._stop_requested or (self.args.world_size == 1 and self.stop.received is not None)
        return requested and not self._is_finished

    @property
    def epoch_is_complete(self) -> bool:
        """Whether the last step was the last one of an epoch."""
        return self.state.global_step % self.steps_per_epoch == 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return max(1, -(-self.batches_per_epoch // self.args.gradient_accumulation_steps))

    @property
    def _is_finished(self) -> bool:
        return self.state.global_step >= self.state.max_steps

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """The batches of an optimizer step, and the items that the sum of their losses is divided by, over all
        ranks."""
        if self._is_finished:
            # Trainer would take another step after resuming from a last step within an epoch.
            num_batches = 0
        batches = list(islice(epoch_iterator, num_batches))
        self._batches = count()
        items = self.items_of(batches)
        if self.args.world_size > 1:
            sums = torch.tensor([items or 0.0, float(self.stop.received is not None)], device=device)
            total, stops = self.accelerator.reduce(sums, "sum").tolist()
            self._stop_requested = stops > 0
            items = None if items is None else total
        return batches, None if items is None else torch.tensor(max(items, 1e-9), device=device)

    def begin_epoch(self, epoch: int) -> None:
        """Prepares an epoch, which may be one that a resumed training continues."""

    def seed_batch(self) -> None:
        """Makes dropout a function of the seed, the step, the batch in it and the rank.

        Resuming then needs no generator state.
        """
        place = (self.args.seed, self.state.global_step, next(self._batches), self.args.process_index)
        set_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Creates the schedule; numbers of steps in `lr_scheduler_kwargs` may be shares, as in pre-training."""
        settings, schedule = cast(dict[str, Any], self.args.lr_scheduler_kwargs or {}), Schedule(num_training_steps)
        steps = {key: schedule.steps(settings[key]) for key in STEP_COUNTS if key in settings}
        self.args.lr_scheduler_kwargs = {**settings, **steps} or None
        return super().create_scheduler(num_training_steps, optimizer)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics on the validation examples.

        During training, the weights are kept if their score is better than all before; if the last `patience`
        evaluations were not better, training stops.

        Returns:
            `eval_METRIC`; NaN for an undefined metric, which the log leaves out.
        """
        result = {
            f"{metric_key_prefix}_{name}": float("nan") if value is None else value
            for name, value in self.measure().items()
        }
        # JSON has no NaN.
        self.log({name: value for name, value in result.items() if math.isfinite(value)})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, result)
        if self.is_in_train and self._evaluations_after_best() == 0:
            self.best_weights = {name: weight.detach().cpu().clone() for name, weight in self._trained()}
        if self._patience_is_over():
            self.control.should_training_stop = True
        return result

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        model = cast(nn.Module, self.model)
        return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)

    def _evaluations_after_best(self) -> int | None:
        """Number of evaluations after the best one; None if no score is defined yet."""
        sign = -1 if lower_is_better(self.args, self.metric) else 1
        undefined = -math.inf * sign
        scores = [sign * entry.get(f"eval_{self.metric}", undefined) for entry in self._evaluations()]
        if max(scores, default=-math.inf) == -math.inf:
            return None
        return len(scores) - 1 - scores.index(max(scores))

    def _evaluations(self) -> list[dict[str, float]]:
        return [entry for entry in self.state.log_history if "eval_examples" in entry]

    def _patience_is_over(self) -> bool:
        return 0 < self._patience <= (self._evaluations_after_best() or 0)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains, and puts the weights of the best evaluation into the model, unless a signal ended training before.

        Args:
            resume_from_checkpoint: a checkpoint; the result is that of an uninterrupted training.
            args, kwargs: see `Trainer.train`.

        Raises:
            CheckpointError: a checkpoint could not be written or read.
        """
        if resume_from_checkpoint is not None:
            best = Path(resume_from_checkpoint) / _BEST
            self.best_weights = load_file(best) if best.is_file() else {}
            self.state = read_state(Path(resume_from_checkpoint))
        output = None
        if not self.best_weights or not (self._is_finished or self._patience_is_over()):
            with self.checkpoints.cleanup():
                output = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.best_weights and not self.stopping:
            with torch.no_grad():
                for name, weight in self._trained():
                    weight.copy_(self.best_weights[name])
        if self.args.eval_strategy == "no" and self.has_validation and not self.stopping:
            self.evaluate()
        return output

    def _get_output_dir(self, trial: Any) -> str:
        # Trainer has no public way to choose the directory of checkpoints.
        return str(self.checkpoints.staging)

    def complete_checkpoint(self) -> None:
        """Completes the checkpoint that Trainer has just written."""

        def describe(folder: Path) -> None:
            # Trainer's pickled arguments.
            (folder / "training_args.bin").unlink(missing_ok=True)
            # It names the staging directory.
            self.state.best_model_checkpoint = None
            self.state.save_to_json(str(folder / "trainer_state.json"))
            if self.best_weights:
                save_file(self.best_weights, folder / _BEST)

        self.checkpoints.publish(self.state, describe)


class _FlowCallback(TrainerCallback):
    """Stops training after a signal, and completes checkpoints."""

    def __init__(self, trainer: BestEpochTrainer) -> None:
        self.trainer = trainer
        self._saves_epoch = False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tells the trainer the number of the epoch."""
        self.trainer.begin_epoch(state.global_step // self.trainer.steps_per_epoch)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends training after a signal; within an epoch, a checkpoint is saved at once.

        The checkpoint of an epoch's last step follows its evaluation, which a resumed training does not repeat.
        """
        self._saves_epoch = control.should_save and (control.should_training_stop or self.trainer.epoch_is_complete)
        if self._saves_epoch:
            control.should_save = False
        if self.trainer.stopping:
            control.should_training_stop = True
            if not self.trainer.epoch_is_complete:
                control.should_save = args.save_strategy != "no"

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After a signal, completes an epoch as usual, and skips the evaluation of an incomplete one."""
        control.should_save |= self._saves_epoch
        if self.trainer.stopping:
            complete = self.trainer.epoch_is_complete
            control.should_save = complete and args.save_strategy != "no"
            control.should_evaluate = complete and control.should_evaluate

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Completes the checkpoint."""
        self.trainer.complete_checkpoint()
