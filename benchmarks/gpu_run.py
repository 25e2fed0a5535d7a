"""Shared by the parts of the GPU benchmark: sizes, remaining time, timing and documents."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from llm_jp_modernbert.modeling.flops import peak_flops

from .models import VOCABULARY, Models

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much each part computes."""

    shapes: tuple[str, ...]  # that are profiled
    vocabulary: int
    tokens: int  # of a training batch
    peer_tokens: int  # of a padded batch of the peer, including padding
    profiled_steps: int
    turns: int
    lengths: tuple[int, ...]  # of the longest document
    chunks: tuple[int, ...]  # rows of a chunk of the vocabulary head
    blocks: tuple[int, ...]  # tokens of a block of the vocabulary
    batch_unit: int  # tokens by which the largest batch is found
    most_units: int
    rows: int  # of a full batch in inference
    texts: int  # of a batch of realistic lengths in inference


ON_GPU = Sizes(
    shapes=("small", "base"),
    vocabulary=VOCABULARY,
    tokens=65_536,
    peer_tokens=16_384,
    profiled_steps=30,
    turns=3,
    lengths=(1024, 8192),
    chunks=(4096, 8192, 16_384, 32_768),
    blocks=(16_384, 32_768, 1 << 17),
    batch_unit=8192,
    most_units=64,
    rows=16,
    texts=512,
)
REHEARSAL = Sizes(
    shapes=("nano",),
    vocabulary=1000,
    tokens=256,
    peer_tokens=128,
    profiled_steps=2,
    turns=1,
    lengths=(64, 128),
    chunks=(32, 128),
    blocks=(256, 1024),
    batch_unit=64,
    most_units=2,
    rows=2,
    texts=4,
)


def sizes_of(device: str) -> Sizes:
    """The sizes for a device."""
    return ON_GPU if device == "cuda" else REHEARSAL


class Run:
    """A run of several parts.

    Args:
        shape: shape of the models.
        device: `"cuda"`, or `"cpu"` for a rehearsal with small sizes.
        compiled: whether to compile the layers.

    Attributes:
        deadline: when the current part must end, on the clock of `time.perf_counter`.
    """

    def __init__(self, shape: str, device: str, compiled: bool) -> None:
        self.device, self.compiled = device, compiled
        self.sizes = sizes_of(device)
        self.models = self.models_of(shape)
        self.deadline = 0.0

    def models_of(self, shape: str) -> Models:
        """New models of a shape."""
        models = Models(shape, self.sizes.vocabulary, device=self.device)
        # As in the recipes for GPUs.
        models.config.autocast_residual = True
        return models

    @property
    def out_of_time(self) -> bool:
        """Whether the current part has used its time."""
        return time.perf_counter() > self.deadline

    def utilization(self, operations_per_second: float) -> float | None:
        """The share of the GPU's peak in bfloat16, or None if it is unknown."""
        peak = peak_flops(torch.cuda.get_device_name(), "bfloat16") if self.device == "cuda" else None
        return round(operations_per_second / peak, 4) if peak else None

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], times: int) -> float:
        """Measure the mean seconds of a call, after one that warms up."""
        work()
        self.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            work()
        self.synchronize()
        return (time.perf_counter() - start) / times

    def free(self) -> None:
        """Return unused memory."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_megabytes(self) -> float | None:
        """Peak memory since `free`, or None without a GPU."""
        return round(torch.cuda.max_memory_allocated() / 1e6) if self.device == "cuda" else None
