"""Finds ranks that are slower than the others.

All ranks end a step at the same time, because each waits for the gradients of the others. Compared is therefore the
time that a rank needs for its own work: reading its batches and its forward passes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import torch

SLOW = 1.2
"""A rank is reported if it needs this multiple of the median time."""


class OwnTime:
    """Adds up the time of this rank's own work. Measuring does not wait for the device.

    Args:
        device: device of the forward passes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        # Of work that the device may not have done yet.
        self._events: deque[tuple[torch.Event, torch.Event]] = deque()

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """Measures work of the CPU inside a `with` block."""
        begin = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - begin

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Measures work of the device inside a `with` block."""
        if self._device.type == "cpu":
            with self.on_host():
                yield
            return
        begin, end = (torch.Event(self._device, enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self._events.append((begin, end))
        # Without a log line, nothing else would free the events.
        while self._events and self._events[0][1].query():
            self._add_first()

    def take(self) -> float:
        """Returns the seconds since the latest call, after the device has done the measured work."""
        while self._events:
            self._events[0][1].synchronize()
            self._add_first()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _add_first(self) -> None:
        begin, end = self._events.popleft()
        self._seconds += begin.elapsed_time(end) / 1000


def slowest(seconds: Sequence[float]) -> tuple[int, float]:
    """The slowest rank, and its time relative to the median.

    Example:
        >>> slowest([2.0, 2.0, 3.0])
        (2, 1.5)
    """
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    return rank, seconds[rank] / max(1e-9, median(seconds))
