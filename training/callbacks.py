"""What is seen of training while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Without a terminal there is no bar to move, so so many lines are printed instead.
_LINES = 10


class ProgressCallback(TrainerCallback):
    """A progress bar with the rate in tokens per second, the time that is left and the loss.

    Args:
        console: where it is shown; where that is no terminal, ten lines are printed in the course of training.
        name: what is being trained, in two or three words.
        tokens_per_step: tokens that a step reads, for the rate.
    """

    def __init__(self, console: Console, name: str, tokens_per_step: int) -> None:
        self.console = console
        self.name = name
        self.tokens_per_step = tokens_per_step
        self.loss: float | None = None
        self._progress: Callable[[int], float] | None = None
        self._began = 0.0
        self._lines = 0
        self._bar: Progress | None = None

    def follow(self, progress: Callable[[int], float]) -> None:
        """Take the share of the way that is done, from 0 to 1, from a function of the step."""
        self._progress = progress

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Shows the bar."""
        self._began = time.perf_counter()
        if self.console.is_terminal:
            fields = ("step {task.fields[step]}", "{task.fields[tokens]} tokens/s", "loss {task.fields[loss]}")
            self._bar = progress_bar(self.console, *fields)
            self._task = self._bar.add_task(self.name, total=1.0, step="0", tokens="…", loss="…")
            self._bar.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Moves the bar by a step."""
        step = state.global_step
        done = self._progress(step) if self._progress is not None else step / state.max_steps
        seconds = time.perf_counter() - self._began
        rate = f"{step * self.tokens_per_step / seconds:,.0f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, step=f"{step:,}", tokens=rate, loss=self._loss)
        elif int(done * _LINES) > self._lines:
            self._lines = int(done * _LINES)
            left = seconds / done * (1 - done)
            self.console.print(
                f"  {self.name}: {done:4.0%}, step {step}, {rate} tokens/s, {left:.0f} s left, loss {self._loss}",
                highlight=False,
            )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Takes note of the loss."""
        self.loss = (logs or {}).get("loss", self.loss)

    @property
    def _loss(self) -> str:
        return "…" if self.loss is None else f"{self.loss:.2f}"

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


def progress_bar(console: Console, *fields: str, transient: bool = False) -> Progress:
    """A rich progress bar: description, bar, percentage, the given fields, time passed and time left.

    Args:
        console: where it is shown.
        fields: further columns.
        transient: whether it goes away when it is done.
    """
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        *(TextColumn(field) for field in fields),
        TimeElapsedColumn(),
        TextColumn("·"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=transient,
    )
