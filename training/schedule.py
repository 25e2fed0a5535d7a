"""A learning-rate schedule over steps or time, whichever runs out first."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Schedule(TrainerCallback):
    """Linear warm-up, then a cosine down to a share of the peak, over what is left of steps or time.

    Where the time is the tighter limit, a slow machine takes fewer steps but still ends at the lowest learning rate,
    which is where most of the gain is. Where the steps are, the run is the same on every machine.

    Args:
        steps: optimizer steps at most.
        seconds: time at most; None for no limit.
        warmup_share: share of the way in which the learning rate rises, from 0 to 1.
        final_share: where the learning rate ends, as a share of the peak.
    """

    def __init__(
        self, steps: int, seconds: float | None = None, warmup_share: float = 0.1, final_share: float = 0.0
    ) -> None:
        self.steps = steps
        self.seconds = seconds
        self.warmup_share = warmup_share
        self.final_share = final_share
        self._began: float | None = None

    def progress(self, step: int) -> float:
        """How much of the way is done after so many steps, from 0 to 1."""
        done = step / self.steps
        if self.seconds is not None and self._began is not None:
            done = max(done, (time.perf_counter() - self._began) / self.seconds)
        return min(1.0, done)

    def factor(self, step: int) -> float:
        """The learning rate of the step after so many, as a share of the peak."""
        # The step that comes is meant: the first one shall learn something, too.
        done = min(1.0, self.progress(step) + 1 / self.steps)
        if done < self.warmup_share:
            return done / self.warmup_share
        falling = (done - self.warmup_share) / max(1e-9, 1 - self.warmup_share)
        return self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * falling)) / 2

    def scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        """The schedule for an optimizer, whose learning rate is the peak."""
        return torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stops when the time is over."""
        if self.progress(state.global_step) >= 1.0:
            control.should_training_stop = True
