"""Progress of a run by steps, tokens or time, and the learning rate that follows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

# Length of the schedule of a run without max_steps. Transformers' schedules count steps but accept fractions of them.
_PARTS = 10_000

STEP_COUNTS = ("num_decay_steps", "num_stable_steps")
"""Keys of `lr_scheduler_kwargs` that are numbers of steps, or fractions of the run."""


class Schedule:
    """Runs transformers' learning-rate schedules over steps, tokens or time, whichever limit is reached first.

    If time is the tightest limit, a slower machine takes fewer steps but still reaches the lowest learning rate. If
    steps or tokens are, a run is the same on every machine.

    Args:
        max_steps: maximum number of optimizer steps; None for no limit.
        max_tokens: maximum number of training tokens; None for no limit.
        max_seconds: maximum training time in seconds; None for no limit.
        tokens: returns the number of tokens read so far.
        seconds: returns the training time so far, in seconds.

    Raises:
        ValueError: all limits are None.
    """

    def __init__(
        self,
        max_steps: int | None,
        max_tokens: int | None = None,
        max_seconds: float | None = None,
        tokens: Callable[[], int] = lambda: 0,
        seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        if max_steps is None and max_tokens is None and max_seconds is None:
            raise ValueError("the run has no end. Set max_steps, max_tokens or max_minutes.")
        self.max_steps, self.max_tokens, self.max_seconds = max_steps, max_tokens, max_seconds
        self._tokens, self._seconds = tokens, seconds

    @property
    def length(self) -> int:
        """The number of training steps to give to transformers' schedules."""
        return self.max_steps or _PARTS

    def steps(self, amount: float) -> int:
        """Converts an amount to a number of steps; an amount below 1 is a fraction of the run, at least one step.

        A run of one step has no room for fractions.

        Raises:
            ValueError: the amount is a number of steps, but the run is not limited by steps.
        """
        if 0 < amount < 1:
            return max(1, round(amount * self.length)) if self.length > 1 else 0
        if amount and self.max_steps is None:
            raise ValueError(
                f"{amount:g} is a number of steps, but tokens or time end the run. Give a fraction of the run, such "
                "as 0.1, or set max_steps."
            )
        return int(amount)

    def progress(self, step: int) -> float:
        """The completed fraction of the run after a number of steps, from 0 to 1."""
        done = 0.0
        if self.max_steps is not None:
            done = step / self.max_steps
        if self.max_tokens is not None:
            done = max(done, self._tokens() / self.max_tokens)
        if self.max_seconds is not None:
            done = max(done, self._seconds() / self.max_seconds)
        return min(1.0, done)

    def follow(self, scheduler: LambdaLR) -> LambdaLR:
        """Makes a scheduler of transformers follow this progress; unchanged if steps are the only limit.

        Schedulers that follow the held-out loss stay unchanged as well.
        """
        if (self.max_tokens is None and self.max_seconds is None) or not isinstance(scheduler, LambdaLR):
            return scheduler

        def by_progress(factor: Callable[[Any], float]) -> Callable[[int], float]:
            return lambda step: factor(self.progress(step) * self.length)

        scheduler.lr_lambdas = [by_progress(factor) for factor in scheduler.lr_lambdas]
        return scheduler
