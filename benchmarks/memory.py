"""Peak memory of a call: of the process on Linux, of torch's allocator on a GPU."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class ExtraPeak:
    """How far memory rises above what it was when this was made."""

    def __init__(self) -> None:
        gc.collect()
        self._on_gpu = torch.cuda.is_available()
        self._known = self._on_gpu or os.access(_RESET, os.W_OK)
        self._before = 0
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        elif self._known:
            # What was freed and kept by the allocator would hide what the call takes.
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            _RESET.write_text("5")
            self._before = _bytes("VmRSS")

    def megabytes(self) -> float | None:
        """The highest that it has been since, in MB of 10⁶ bytes, or None where the system does not tell."""
        if not self._known:
            return None
        peak = torch.cuda.max_memory_allocated() if self._on_gpu else _bytes("VmHWM")
        return (peak - self._before) / 1e6


def _bytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
