"""Progress of a fine-tuning."""

from __future__ import annotations

import logging
import time
from statistics import fmean
from typing import Any

from rich.progress import Progress
from transformers import TrainerCallback, TrainerControl, TrainerState

from llm_jp_modernbert.core.progress import progress_bar
from llm_jp_modernbert.core.terminal import console

_SILENCE = 60.0
"""Seconds after which a training without a terminal logs a line."""

logger = logging.getLogger(__name__)


class EpochLines(TrainerCallback):
    """A line per evaluation; between them, a progress bar, or without a terminal a line per minute.

    Args:
        name: short name of the training.
        metric: metric that the lines show.
    """

    def __init__(self, name: str, metric: str) -> None:
        self.name, self.metric = name, metric
        self._loss, self._losses = "…", list[float]()
        self._bar: Progress | None = None
        self._last_line = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Shows the bar."""
        if state.global_step:
            logger.info("  %s continues after step %d", self.name, state.global_step)
        self._last_line = time.monotonic()
        self._bar = progress_bar(console(), "{task.fields[figures]}", transient=True)
        self._task = self._bar.add_task(self.name, total=state.max_steps, figures="")
        self._bar.start()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Updates the bar."""
        if self._bar is None:
            return
        figures = f"step {state.global_step:,} of {state.max_steps:,}, loss {self._loss}"
        self._bar.update(self._task, completed=state.global_step, figures=figures)
        if not console().is_terminal and time.monotonic() - self._last_line > _SILENCE:
            self._log(f"{self.name}, {figures}")

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        """Remembers the latest loss, and all since the latest line of an epoch."""
        if logs and "loss" in logs:
            self._loss = f"{logs['loss']:.3f}"
            self._losses.append(logs["loss"])

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Logs a line with the mean loss since the last one; the last batch of an epoch may have a single example."""
        score = (metrics or {}).get(f"eval_{self.metric}")
        if score is not None:
            shown = f"{score:.3f}" if self.metric == "loss" else f"{100 * score:.1f}"
            loss = f"{fmean(self._losses):.3f}" if self._losses else self._loss
            self._log(f"{self.name}, epoch {state.epoch or 0.0:<4.3g} loss {loss}, validation {self.metric} {shown}")
        self._losses.clear()

    def _log(self, line: str) -> None:
        logger.info("  %s", line)
        self._last_line = time.monotonic()

    def close(self) -> None:
        """Removes the bar; must also be called after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
