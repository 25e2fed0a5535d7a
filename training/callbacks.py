"""What is seen of training while it runs."""

from __future__ import annotations

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
    TrainingArguments,
)

from llm_jp_modernbert.core.progress import progress_bar

from .run.totals import Totals

if TYPE_CHECKING:
    from .trainer import PretrainingTrainer

# Without a terminal there is no bar to move, so so many lines are printed instead.
_LINES = 10

Probe = Callable[[PreTrainedModel, PreTrainedTokenizerBase | None], Mapping[str, float]]
"""A measurement of a model in training, such as fill-mask accuracy: figures by name."""


class ProgressCallback(TrainerCallback):
    """A progress bar with the rate in tokens per second, the time that is left, the loss and the held-out accuracy.

    Args:
        console: where it is shown; where that is no terminal, ten lines are printed in the course of training.
        name: what is being trained, in two or three words.
        progress: the share of the way that is done after so many steps, from 0 to 1.
        totals: what was read so far.
    """

    def __init__(
        self, console: Console, name: str, progress: Callable[[int], float], totals: Callable[[], Totals]
    ) -> None:
        self.console = console
        self.name = name
        self._progress = progress
        self._totals = totals
        self._figures: dict[str, str] = {"loss": "…"}
        self._began = 0.0
        self._first = Totals()
        self._done_before = 0.0
        self._lines = 0
        self._bar: Progress | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Shows the bar."""
        self._began = time.perf_counter()
        self._first = Totals(*self._totals().values())
        self._done_before = self._progress(state.global_step)
        self._lines = int(self._done_before * _LINES)
        if self.console.is_terminal:
            fields = ("step {task.fields[step]}", "{task.fields[tokens]} tokens/s", "{task.fields[figures]}")
            self._bar = progress_bar(self.console, *fields)
            self._task = self._bar.add_task(self.name, total=1.0, step="0", tokens="…", figures="")
            self._bar.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Moves the bar by a step."""
        step = state.global_step
        done = self._progress(step)
        seconds = time.perf_counter() - self._began
        rate = f"{(self._totals().tokens - self._first.tokens) / seconds:,.0f}"
        figures = ", ".join(f"{name} {value}" for name, value in self._figures.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=done, step=f"{step:,}", tokens=rate, figures=figures)
        elif int(done * _LINES) > self._lines:
            self._lines = int(done * _LINES)
            left = seconds / max(1e-9, done - self._done_before) * (1 - done)
            self.console.print(
                f"  {self.name}: {done:4.0%}, step {step:,}, {rate} tokens/s, {left:,.0f} s left, {figures}",
                highlight=False,
                soft_wrap=True,
            )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Takes note of the loss and the accuracy."""
        logs = logs or {}
        for key, name, form in (("loss", "loss", ".2f"), ("eval_masked_accuracy", "held-out accuracy", ".1%")):
            if key in logs:
                self._figures[name] = format(logs[key], form)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leaves the full bar standing."""
        self.close()

    def close(self) -> None:
        """Gives the terminal back; also to be called where training ended with an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class ProbeCallback(TrainerCallback):
    """Measures the model at some steps and logs what is found as `probe_NAME_FIGURE`.

    Args:
        probes: measurements by name; they see the model in evaluation mode, on every rank.
        steps: when; None for every checkpoint.
        trainer: whose model is measured.
    """

    def __init__(self, probes: Mapping[str, Probe], steps: Sequence[int] | None, trainer: PretrainingTrainer) -> None:
        self.probes = probes
        self.steps = None if steps is None else set(steps)
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures the untrained model, where step 0 is among the steps."""
        if state.global_step == 0 and self.steps is not None and 0 in self.steps:
            self._measure()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures where it is time."""
        if control.should_save if self.steps is None else state.global_step in self.steps:
            self._measure()

    def _measure(self) -> None:
        model, tokenizer = self.trainer.model, self.trainer.processing_class
        was_training = model.training
        model.eval()
        try:
            with self.trainer.clock_stopped():
                found = {
                    f"probe_{name}_{figure}": float(value)
                    for name, probe in self.probes.items()
                    for figure, value in probe(model, tokenizer).items()
                }
        finally:
            model.train(was_training)
        self.trainer.log(found)
