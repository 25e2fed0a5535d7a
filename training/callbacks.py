"""Callbacks of pre-training: progress and probes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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

from .run.totals import Totals

if TYPE_CHECKING:
    from .trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# Number of progress messages of a run without a terminal.
_MESSAGES = 10

Probe = Callable[[PreTrainedModel, PreTrainedTokenizerBase | None], Mapping[str, float]]
"""A measurement of a model during training, such as fill-mask accuracy. Returns figures by name."""


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
