"""Batches that are assembled ahead of time in a thread, and copied to the device without waiting for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def read_ahead(items: Iterator[T], count: int) -> Generator[T, None, None]:
    """Yields the items of an endless iterator, which a thread makes ahead of time.

    Errors of the iterator are raised in the place of its item. When the generator is closed, the thread finishes the
    item that it is making; the iterator itself is not closed.

    Args:
        items: an endless iterator; the caller must not use it until the generator is closed.
        count: number of items that are made ahead.
    """
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, items) for _ in range(count))
        try:
            while True:
                item = waiting.popleft().result()
                waiting.append(thread.submit(next, items))
                yield item
        finally:
            for future in waiting:
                future.cancel()


def pinned(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with its tensors in page-locked memory, from which a GPU copies while the host continues."""
    return {name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on a device; the host does not wait for copies from page-locked memory."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
