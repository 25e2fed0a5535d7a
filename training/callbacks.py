"""Callbacks of pre-training: progress, probes and non-finite losses."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import Progress
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from llm_jp_modernbert.core.progress import progress_bar

from .recipe.arguments import PretrainingArguments
from .run.totals import Totals

if TYPE_CHECKING:
    from .counting import Counter
    from .data.order import Source
    from .data.stream import BatchInfo
    from .trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# Number of progress messages of a run without a terminal.
_MESSAGES = 10

Probe = Callable[[PreTrainedModel, PreTrainedTokenizerBase | None], Mapping[str, float]]
"""A measurement of a model during training, such as fill-mask accuracy. Returns figures by name."""


class NonFiniteLoss(ValueError):
    """A loss or gradient is NaN or infinite. The message names the file that describes the batch."""


class ProgressCallback(TrainerCallback):
    """A progress bar with tokens per second, remaining time, loss and held-out accuracy.

    Args:
        console: terminal that shows the bar; without a terminal, ten log messages show the progress instead.
        name: short name of the training.
        progress: returns the completed fraction of the run after a number of steps, from 0 to 1.
        totals: returns the counts of the run so far.
    """

    def __init__(
        self, console: Console, name: str, progress: Callable[[int], float], totals: Callable[[], Totals]
    ) -> None:
        self.console = console
        self.name = name
        self._progress = progress
        self._totals = totals
        self._figures: dict[str, str] = {"loss": "…"}
        self._started = 0.0
        self._tokens_before = 0.0
        self._done_before = 0.0
        self._messages = 0
        self._bar: Progress | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Shows the bar."""
        self._started = time.perf_counter()
        self._tokens_before = self._totals().tokens
        self._done_before = self._progress(state.global_step)
        self._messages = int(self._done_before * _MESSAGES)
        if self.console.is_terminal:
            columns = ("step {task.fields[step]}", "{task.fields[tokens]} tokens/s", "{task.fields[figures]}")
            self._bar = progress_bar(self.console, *columns)
            self._task = self._bar.add_task(self.name, total=1.0, step="0", tokens="…", figures="")
            self._bar.start()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Updates the bar."""
        step = state.global_step
        done = self._progress(step)
        seconds = time.perf_counter() - self._started
        rate = f"{(self._totals().tokens - self._tokens_before) / seconds:,.0f}"
        figures = ", ".join(f"{name} {value}" for name, value in self._figures.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=done, step=f"{step:,}", tokens=rate, figures=figures)
        elif int(done * _MESSAGES) > self._messages:
            self._messages = int(done * _MESSAGES)
            left = seconds / max(1e-9, done - self._done_before) * (1 - done)
            logger.info(
                "  %s: %4.0f%%, step %s, %s tokens/s, %s s left, %s",
                *(self.name, 100 * done, f"{step:,}", rate, f"{left:,.0f}", figures),
            )

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remembers the latest loss and accuracy."""
        logs = logs or {}
        for key, name, form in (("loss", "loss", ".2f"), ("eval_masked_accuracy", "held-out accuracy", ".1%")):
            if key in logs:
                self._figures[name] = format(logs[key], form)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stops the bar and leaves it on the screen."""
        self.close()

    def close(self) -> None:
        """Stops the bar; must also be called after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class ProbeCallback(TrainerCallback):
    """Measures the model at certain steps and logs the figures as `probe_NAME_FIGURE`.

    Args:
        probes: measurements by name, called on every rank with the model in evaluation mode.
        steps: steps to measure at; None for the step of every checkpoint.
        trainer: trainer of the model.
    """

    def __init__(self, probes: Mapping[str, Probe], steps: Sequence[int] | None, trainer: PretrainingTrainer) -> None:
        self.probes = probes
        self.steps = None if steps is None else set(steps)
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measures the untrained model if step 0 is requested."""
        if state.global_step == 0 and self.steps is not None and 0 in self.steps:
            self._measure()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measures at the requested steps."""
        if control.should_save if self.steps is None else state.global_step in self.steps:
            self._measure()

    def _measure(self) -> None:
        model, tokenizer = self.trainer.model, self.trainer.processing_class
        was_training = model.training
        model.eval()
        try:
            figures = {
                f"probe_{name}_{figure}": float(value)
                for name, probe in self.probes.items()
                for figure, value in probe(model, tokenizer).items()
            }
        finally:
            model.train(was_training)
        self.trainer.log(figures)


@dataclass(frozen=True)
class _Step:
    """A step whose losses have not been read on the host yet.

    Attributes:
        number: number of the step, from 1.
        infos: descriptions of its batches.
        read: waits for the step and returns whether it is skipped, its gradient norm, and the loss of each batch.
    """

    number: int
    infos: Sequence[BatchInfo]
    read: Callable[[], list[float]]


class NonFiniteCallback(TrainerCallback):
    """Skips optimizer steps whose loss or gradient is not finite, up to the recipe's max_skipped_steps.

    The device decides: torch's fused optimizers skip a step by a tensor, so that the host need not wait for the
    gradients. It reads losses and decision one step later. Other optimizers, and the scaler of float16, wait.

    Args:
        recipe: the recipe.
        counter: counts of the run, with the losses and batches of the current step.
        sources: training data, to name the documents of a batch.
    """

    def __init__(self, recipe: PretrainingArguments, counter: Counter, sources: Sequence[Source]) -> None:
        self.recipe, self.counter, self.sources = recipe, counter, sources
        self._unread: _Step | None = None

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Checks the step on every rank, after gradient clipping.

        Raises:
            NonFiniteLoss: see `read`.
        """
        self.read()
        model: torch.nn.Module = kwargs["model"]
        # Inside of accelerate's.
        optimizer: torch.optim.Optimizer = kwargs["optimizer"].optimizer
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        losses = torch.stack(self.counter.losses)
        finite = losses.isfinite().all()
        if not self.recipe.fp16:
            # In float16, infinite gradients are part of the search for a loss scale; the scaler skips such steps.
            finite = finite & norm.isfinite()
        skipped = 1.0 - finite.float()
        if self.recipe.world_size > 1:
            torch.distributed.all_reduce(skipped, torch.distributed.ReduceOp.MAX)
        read = _copied_to_host(torch.cat([skipped[None], norm[None], losses]))
        self._unread = _Step(state.global_step + 1, self.counter.infos, read)
        if optimizer.defaults.get("fused") and not self.recipe.fp16:
            optimizer.found_inf = skipped  # type: ignore[attr-defined]
        elif self.read():
            # The optimizer leaves parameters without a gradient unchanged.
            model.zero_grad(set_to_none=True)

    def read(self) -> bool:
        """Counts the latest step unless it has been counted, and returns whether it is skipped; waits for the device.

        Raises:
            NonFiniteLoss: more steps than allowed are not finite.
        """
        step, self._unread = self._unread, None
        if step is None:
            return False
        skipped, norm, *losses = step.read()
        self.counter.add_losses(losses)
        if not skipped:
            return False
        totals = self.counter.totals
        report = self._describe_batch(step, losses, norm)
        if totals.skipped_steps >= self.recipe.max_skipped_steps:
            raise NonFiniteLoss(
                f"step {step.number}: the loss or its gradient is not finite (gradient norm {norm}). {report} names "
                "the batch's documents. Lower learning_rate, resume from the previous checkpoint with "
                "resume_from_checkpoint=true, or allow such steps with max_skipped_steps."
            )
        totals.skipped_steps += 1
        if self.recipe.process_index == 0:
            logger.warning(
                "step %d is skipped: its loss or gradient is not finite. %s names its documents.", step.number, report
            )
        return True

    def _describe_batch(self, step: _Step, losses: list[float], norm: float) -> Path:
        name = f"step-{step.number}-rank-{self.recipe.process_index}.json"
        path = Path(str(self.recipe.output_dir)) / "non_finite" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = [
            {"file": self.sources[source].shards[shard].name, "row": row, "token": token, "epoch": epoch}
            for info in step.infos
            for source, epoch, shard, row, token in info.samples.tolist()
        ]
        numbers = {"losses": [str(loss) for loss in losses], "grad_norm": str(norm)}
        content = {"step": step.number, **numbers, "samples": samples}
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return path


def _copied_to_host(values: torch.Tensor) -> Callable[[], list[float]]:
    """Starts copying `(n,)` values to the host, and returns a function that waits for the copy alone."""
    copy = values.to("cpu", non_blocking=True)
    if values.device.type == "cpu":
        return copy.tolist
    copied = torch.Event(values.device)
    copied.record()

    def read() -> list[float]:
        copied.synchronize()
        return copy.tolist()

    return read
