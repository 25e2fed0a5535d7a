"""Trainer for packed masked-LM pre-training.

`PretrainingTrainer` connects transformers' Trainer to this package: batches come from a `BatchStream`, `Counter` sums,
`PretrainingCheckpoints` completes checkpoints, and validation runs on fixed masks over all ranks.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from transformers.trainer_callback import PrinterCallback

from llm_jp_modernbert.core.errors import UsageError, first_line

from .checkpointing import PretrainingCheckpoints, load_moments, read_rank_states, read_state
from .counting import Counter
from .data.read_ahead import on_device, pinned, read_ahead
from .data.stream import BatchInfo, BatchStream, StreamState
from .data.validation import MaskedValidation
from .length_warmup import divided, longest_piece, with_lengths
from .non_finite import NonFiniteCallback
from .optimizers import make_optimizer
from .recipe.arguments import OWN_OPTIMIZERS, PretrainingArguments, to_training_arguments
from .run.checkpoints import StopSignals
from .run.summary import Stage
from .run.totals import Totals
from .sharding import keep_float32
from .step_times import SLOW, OwnTime, slowest
from .theta_warmup import ThetaWarmupCallback

logger = logging.getLogger(__name__)


class PretrainingTrainer(Trainer):
    """Trains a masked language model on a stream of packed batches.

    Args:
        model: a model that accepts packed input, such as `LlmJpModernBertForMaskedLM`.
        recipe: the recipe.
        stream: batches of this rank.
        tokenizer: saved with every checkpoint.
        validation: held-out text.
        callbacks: further callbacks.
        stop: receives signals that request a last checkpoint.
        earlier_stages: training stages of the model before this run, see `run.summary`.

    Raises:
        UsageError: the recipe's optimizer does not support FSDP, with which the processes were launched.

    Attributes:
        counter: counts of the run.
        checkpoints: completes checkpoints.
        schedule: progress of the run and its learning rate.
    """

    args: PretrainingArguments
    model: PreTrainedModel
    processing_class: PreTrainedTokenizerBase | None

    def __init__(
        self,
        model: PreTrainedModel,
        recipe: PretrainingArguments,
        stream: BatchStream,
        tokenizer: PreTrainedTokenizerBase | None = None,
        validation: MaskedValidation | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        stop: StopSignals | None = None,
        earlier_stages: Sequence[Stage] = (),
    ) -> None:
        self.recipe, self.stream, self.validation = recipe, stream, validation
        self.stop = stop or StopSignals()
        self.resuming = False
        self.counter = Counter(recipe, model.config)
        self.schedule = recipe.schedule(lambda: int(self.totals.tokens), lambda: self.totals.seconds)
        self.non_finite = NonFiniteCallback(recipe, self.counter, stream.maker.sources)
        self._batches: _Batches | None = None
        # After the latest step; None before the first one.
        self._stream_state: StreamState | None = None
        super().__init__(
            model=model,
            args=to_training_arguments(recipe),
            processing_class=tokenizer,
            eval_dataset=validation,
            callbacks=[self.non_finite, *callbacks],
        )
        self.theta_warmup = ThetaWarmupCallback(model, recipe) if recipe.theta_warmup_steps else None
        if self.theta_warmup is not None:
            self.add_callback(self.theta_warmup)
        self.own_time = OwnTime(self.args.device)
        self.checkpoints = PretrainingCheckpoints(recipe, self.accelerator.wait_for_everyone, earlier_stages)
        # After DefaultFlowCallback, whose decisions it reads, and before others, which find a checkpoint complete.
        self.callback_handler.callbacks.insert(1, _FlowCallback(self))
        self.remove_callback(PrinterCallback)
        keep_float32(getattr(self.accelerator.state, "fsdp_plugin", None))
        if self.is_fsdp_enabled and recipe.optim in OWN_OPTIMIZERS:
            raise UsageError(f"optim: {recipe.optim} needs whole weights, which FSDP divides. Train without FSDP.")

    @property
    def totals(self) -> Totals:
        """Counts over all ranks since the beginning of the run."""
        return self.counter.totals

    @property
    def stopping(self) -> bool:
        """Whether a signal ends the run, the same on all ranks."""
        # A single rank has no other ranks to agree with, so it stops at once.
        return self.counter.stop_requested or (self.args.world_size == 1 and self.stop.received is not None)

    def get_train_dataloader(self) -> Any:
        """The batches of this rank, from the current position in the data."""
        self._batches = _Batches(self.stream, self.args)
        return self._batches

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor]:
        """The batches of an optimizer step, and the number of labels that the sum of their losses is divided by."""
        self.counter.start_clock()
        with self.own_time.on_host():
            batches = [next(epoch_iterator) for _ in range(num_batches)]
        infos: list[BatchInfo] = [batch.pop("info") for batch in batches]
        self._stream_state = infos[-1].state
        lengths = [info.lengths for info in infos]
        if self.state.global_step < self.recipe.length_warmup_steps:
            # Here and not where batches are made, which can be steps ahead.
            longest = longest_piece(self.recipe, self.state.global_step)
            lengths = [divided(pieces, longest) for pieces in lengths]
            batches = [with_lengths(*pair) for pair in zip(batches, lengths, strict=True)]
        labels = self.counter.start_step(infos, lengths, self.stop.received is not None)
        # Not torch.tensor, which waits for the device.
        divisor = torch.full((), max(1.0, labels), device=device)
        return [on_device(batch, device) for batch in batches], divisor

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward pass; a non-finite loss is returned as 0 and handled before the optimizer step.

        Dropout is a function of the recipe's seed, the step, the batch in it and the rank: resuming needs no generator
        state, and nothing that draws random numbers between two batches changes the run.
        """
        place = (self.args.seed, self.state.global_step, len(self.counter.losses), self.args.process_index)
        seed = int(np.random.SeedSequence(place).generate_state(1)[0])
        # Only the generators of the model: seeding all of them takes a hundred times as long.
        torch.default_generator.manual_seed(seed)
        if self.args.device.type != "cpu":
            torch.get_device_module(self.args.device).manual_seed(seed)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.counter.losses.append(loss)
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss of a batch."""
        with self.own_time.on_device():
            return super().compute_loss(*args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Operations of the current batch; Trainer would walk over all parameters to estimate them."""
        return self.counter.flops[len(self.counter.losses) - 1]

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        """Creates the optimizer; with init_optimizer=kept, it starts with the state saved in init_from."""
        created = self.optimizer is None
        if created:
            self.optimizer = make_optimizer(self.model, self.args, self.get_decay_parameter_names(self.model))
        optimizer = super().create_optimizer(*args)
        if created and self.recipe.init_optimizer == "kept" and not self.resuming:
            load_moments(optimizer, Path(str(self.recipe.init_from)))
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Creates transformers' schedule of the recipe, over steps, tokens or time."""
        if self.lr_scheduler is None:
            self.schedule.follow(cast(LambdaLR, super().create_scheduler(self.schedule.length, optimizer)))
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of parameters with weight decay: all except norms and biases, or all with decay_norms_and_biases."""
        if self.recipe.decay_norms_and_biases:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs figures; a training loss is replaced by `Counter.figures`, which survive resuming exactly."""
        if "loss" in logs:
            logs.update(self.counter.figures(self.state.global_step))
            logs.update(self._slowest_rank())
        if "train_loss" in logs:
            # Before transformers 5.19, that of a resumed run was divided by the steps of all processes.
            logs["train_loss"] = self.counter.mean_loss()
        super().log(logs, start_time)

    def _slowest_rank(self) -> dict[str, float]:
        """Figures of the slowest rank since the previous log line, which is named if it holds up the others."""
        seconds = self.own_time.take()
        if self.args.world_size == 1:
            return {}
        own = [0.0] * self.args.world_size
        own[self.args.process_index] = seconds
        rank, ratio = slowest(self.counter.sum(own))
        if ratio >= SLOW and rank == self.args.process_index:
            # By this rank, because it knows the name of its host.
            logger.warning(
                "rank %d on %s needs %.2f times the median time of all ranks for its batches and forward passes",
                rank,
                socket.gethostname(),
                ratio,
            )
        return {"slowest_rank": rank, "slowest_rank_time": round(ratio, 3)}

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and accuracy on the held-out text with fixed masks, computed by all ranks together.

        Raises:
            ValueError: the recipe has no validation_data.
        """
        if self.validation is None:
            raise ValueError("no held-out text to evaluate on. Set validation_data.")
        # Compiled layers would be compiled again for these few batches.
        with torch.compiler.set_stance("force_eager"):
            result = self.validation.measure(
                self.model, self.args.sequence_length, self.args.process_index, self.args.world_size, self.counter.sum
            )
        metrics = {
            f"{metric_key_prefix}_loss": result.loss,
            f"{metric_key_prefix}_masked_accuracy": result.accuracy,
            f"{metric_key_prefix}_baseline_accuracy": self.validation.baseline_accuracy,
            f"{metric_key_prefix}_masked_tokens": result.masked_tokens,
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def evaluate_last(self) -> None:
        """Evaluates on the held-out text at the end of training, unless the last step was evaluated."""
        evaluated = any(
            entry["step"] == self.state.global_step for entry in self.state.log_history if "eval_loss" in entry
        )
        if self.validation is not None and not evaluated:
            self.evaluate()

    def restore(self, checkpoint: Path) -> None:
        """Restores counts and position in the data; `train` restores everything else from the same checkpoint.

        Raises:
            CheckpointError: the checkpoint cannot be resumed from.
        """
        states = read_rank_states(checkpoint)
        self.stream.load_state_dict([state["stream"] for state in states])
        self.counter.load_state_dict(states)
        if self.theta_warmup is not None:
            # A run without warm-up has no other theta.
            self.theta_warmup.start = states[0].get("initial_theta", self.theta_warmup.start)
        self.state = read_state(checkpoint)
        self.resuming = True

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains; see `Trainer.train`.

        Raises:
            NonFiniteLoss: a loss or gradient is not finite.
            CheckpointError: a checkpoint could not be written.
            UsageError: a batch does not fit into the memory of the GPU.
        """
        try:
            with self.checkpoints.cleanup():
                output = super().train(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            key = "per_device_train_batch_size" if self.recipe.tokens_per_batch is None else "tokens_per_batch"
            raise UsageError(
                f"{key}: a batch needs more memory than the GPU has ({first_line(error)}). Lower it and raise "
                "gradient_accumulation_steps: `pretrain --find-batch-size` prints the values that fit."
            ) from error
        finally:
            if self._batches is not None:
                self._batches.close()
        return output._replace(training_loss=output.metrics["train_loss"])

    def _get_output_dir(self, trial: Any) -> str:
        # The only private method overridden: Trainer has no public way to choose the directory of checkpoints.
        return str(self.checkpoints.staging)

    def wait_for_device(self) -> None:
        """Waits for the work of this process on its device."""
        if self.args.device.type != "cpu":
            torch.accelerator.synchronize(self.args.device)

    def settle(self) -> None:
        """Completes the counts after a step; every rank must call it.

        Raises:
            NonFiniteLoss: a loss or gradient is not finite.
        """
        self.non_finite.read()
        self.counter.settle()

    def complete_checkpoint(self) -> None:
        """Completes the checkpoint that Trainer has just written."""
        # A callback can request a checkpoint after the end of the step.
        self.settle()
        theta = {} if self.theta_warmup is None else {"initial_theta": self.theta_warmup.start}
        rank_state = {
            **theta,
            "ranks": self.args.world_size,
            "weights_alone": self.args.save_only_model,
            "stream": self._stream_state or self.stream.state_dict(),
            **self.counter.state_dict(),
        }
        self.checkpoints.complete(self.state, self.totals, self.counter.gather(rank_state))


class _Batches:
    """Iterable over the batches of a stream; Trainer calls `iter` once per epoch.

    Attributes:
        ahead: number of batches that a thread assembles ahead: those of two steps for a GPU, none for a CPU, whose
            cores are all busy.
        pins: whether they are in page-locked memory.
    """

    def __init__(self, stream: BatchStream, arguments: PretrainingArguments) -> None:
        self.stream, self.accumulation = stream, arguments.gradient_accumulation_steps
        self.ahead = 0 if arguments.device.type == "cpu" else 2 * self.accumulation
        self.pins = arguments.device.type == "cuda" and arguments.dataloader_pin_memory
        self._opened: Generator[dict[str, Any], None, None] | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._opened = self._iterate()
        return self._opened

    def _iterate(self) -> Generator[dict[str, Any], None, None]:
        with closing(self.stream.batches(self.accumulation)) as batches:
            made: Iterator[dict[str, Any]] = map(pinned, batches) if self.pins else batches
            if self.ahead:
                # The first batch starts the processes, which end with an error if another thread has forked them.
                yield next(made)
                made = read_ahead(made, self.ahead)
            yield from made

    def close(self) -> None:
        """Ends the thread and the processes that prepare batches."""
        if self._opened is not None:
            self._opened.close()


class _FlowCallback(TrainerCallback):
    """Decides when to save and stop, and completes checkpoints."""

    def __init__(self, trainer: PretrainingTrainer) -> None:
        self.trainer = trainer
        self.steps = {*(trainer.recipe.publish_steps or ()), *(trainer.recipe.keep_steps or ())}
        self.compiles = trainer.recipe.torch_compile

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Applies the intervals of this recipe to a resumed run; a new one saves the untrained model, at least as a
        rehearsal."""
        trainer = self.trainer
        if trainer.resuming:
            # Trainer has restored the intervals of the run that wrote the checkpoint.
            state.compute_steps(args, state.max_steps)
        elif 0 in self.steps:
            trainer._save_checkpoint(trainer.model, None)
            trainer.callback_handler.on_save(args, state, control)
        else:
            trainer.checkpoints.rehearse(trainer.save_model, state, trainer.totals)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Updates the state and requests a checkpoint or the end of training; all ranks decide the same."""
        trainer = self.trainer
        if state.global_step in self.steps:
            control.should_save = True
        if control.should_log or control.should_evaluate or control.should_save:
            # Its work belongs to the training time.
            trainer.wait_for_device()
        seconds = trainer.counter.stop_clock()
        if self.compiles:
            self.compiles = False
            if state.is_world_process_zero:
                logger.info("  first step, with compiling: %.0f s", seconds)
        state.epoch = float(trainer.counter.epoch)
        state.num_input_tokens_seen = int(trainer.totals.tokens)
        finished = trainer.schedule.progress(state.global_step) >= 1.0
        if finished or trainer.stopping:
            control.should_training_stop = True
            control.should_save = control.should_save or trainer.stopping or args.save_strategy != "no"
        if control.should_log or control.should_evaluate or control.should_save or control.should_training_stop:
            trainer.settle()

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Completes the checkpoint."""
        self.trainer.complete_checkpoint()
