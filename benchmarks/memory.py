"""Peak memory of a call in this process, on Linux."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def extra_peak_megabytes(call: Callable[[], Any]) -> float:
    """How far the memory of the process rises above what it was before a call.

    Args:
        call: what is measured; what it returns is let go.
    """
    gc.collect()
    # What was freed and kept by the allocator would hide what the call takes.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    _RESET.write_text("5")
    before = _kilobytes("VmRSS")
    call()
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])
