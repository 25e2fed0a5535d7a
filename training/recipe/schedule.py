"""How far a run is, by steps, tokens or time, and the learning rate that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

# A run without a number of steps is as many parts long; transformers' schedules count whole steps, but take fractions.
_PARTS = 10_000


class Schedule:
    """Transformers' learning-rate schedules over steps, tokens or time, whichever runs out first.

    Where the time is the tightest limit, a slow machine takes fewer steps but still ends at the lowest learning rate,
    which is where much of the gain is. Where steps or tokens are, a run is the same on every machine.

    Args:
        max_steps: optimizer steps at most, None for any number.
        max_tokens: tokens at most that the model reads, None for any number.
        max_seconds: time for training at most, None for any.
        tokens: tokens that were read so far.
        seconds: time that training has taken so far.

    Raises:
        ValueError: no limit is given.
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
            raise ValueError("give max_steps, max_tokens or max_minutes: the run has no end.")
        self.max_steps, self.max_tokens, self.max_seconds = max_steps, max_tokens, max_seconds
        self._tokens, self._seconds = tokens, seconds

    @property
    def length(self) -> int:
        """What transformers' schedules take for the number of training steps."""
        return self.max_steps or _PARTS

    def steps(self, amount: float) -> int:
        """A number of steps, of which one below 1 is a share of the whole run.

        Raises:
            ValueError: a number of steps in a run that has none.
        """
        if 0 < amount < 1:
            return max(1, round(amount * self.length))
        if amount and self.max_steps is None:
            raise ValueError(
                f"{amount:g} steps of warm-up or decay, but the run's end is set by tokens or time: give a share of "
                "the run, such as 0.1, or max_steps."
            )
        return int(amount)

    def progress(self, step: int) -> float:
        """How much of the way is done after so many steps, from 0 to 1."""
        done = 0.0
        if self.max_steps is not None:
            done = step / self.max_steps
        if self.max_tokens is not None:
            done = max(done, self._tokens() / self.max_tokens)
        if self.max_seconds is not None:
            done = max(done, self._seconds() / self.max_seconds)
        return min(1.0, done)

    def follow(self, scheduler: LambdaLR) -> LambdaLR:
        """Has a scheduler of transformers go by this progress; with steps as the only limit it stays as it is."""
        if self.max_tokens is None and self.max_seconds is None:
            return scheduler

        def by_progress(factor: Callable[[Any], float]) -> Callable[[int], float]:
            return lambda step: factor(self.progress(step) * self.length)

        scheduler.lr_lambdas = [by_progress(factor) for factor in scheduler.lr_lambdas]
        return scheduler
