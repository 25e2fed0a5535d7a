"""The machine under test: its description, its fastest matrix product, and the peak memory of a call."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llm_jp_modernbert.core.versions import library_versions

_LIBRARIES = ("torch", "transformers", "datasets", "tokenizers", "sentencepiece", "sentence-transformers", "numpy")
# Instruction sets that matrix products use, as Linux names them on x86 and on ARM.
_X86 = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16")
_INSTRUCTIONS = (*_X86, "asimd", "sve", "bf16", "i8mm")
# (rows, inner dimension, columns): one product of the base model and one square product. GPUs need larger ones.
_PRODUCTS_ON_CPU = ((4096, 768, 2304), (2048, 2048, 2048))
_PRODUCTS_ON_GPU = ((65536, 768, 2304), (16384, 16384, 16384))
_REPEATS = 10


def machine() -> dict[str, Any]:
    """Describe the machine: processor or GPU, cores, torch threads, instruction sets, memory in GB of 10⁹ bytes."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.is_file() else []
    processor_facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    processor = processor_facts.get("model name") or platform.processor() or platform.machine()
    flags = (processor_facts.get("flags") or processor_facts.get("Features") or "").split()
    facts: dict[str, Any] = {
        "name": torch.cuda.get_device_name() if torch.cuda.is_available() else processor,
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction sets": [name for name in _INSTRUCTIONS if name in flags],
        "system": f"{platform.system()} {platform.machine()}",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory GB"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    if torch.cuda.is_available():
        facts["CUDA"] = torch.version.cuda
    return facts


def versions() -> dict[str, str]:
    """The versions of Python and of the compared libraries."""
    return {"python": platform.python_version(), **library_versions(_LIBRARIES)}


def synchronize() -> None:
    """Wait until the GPU has finished, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """Measure the fastest matrix product, in floating-point operations per second.

    Args:
        dtype: data type of both factors.
        device: torch device, for example `"cpu"`.
    """
    best = 0.0
    for rows, inner, columns in _PRODUCTS_ON_CPU if device == "cpu" else _PRODUCTS_ON_GPU:
        left = torch.randn(rows, inner, device=device).to(dtype)
        right = torch.randn(columns, inner, device=device).to(dtype)
        for _ in range(_REPEATS):
            synchronize()
            start = time.perf_counter()
            torch.nn.functional.linear(left, right)
            synchronize()
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - start))
    return best


def extra_peak_megabytes(work: Callable[[], Any]) -> float | None:
    """Run a call and measure how far it raises memory above the level before it, in MB of 10⁶ bytes.

    Uses torch's allocator on a GPU and the resident set size on Linux; elsewhere the call is not run.

    Returns:
        The extra peak memory, or None if the system does not report it.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    reset = Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):
        return None
    # Memory that the allocator keeps after a free would hide new allocations.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    reset.write_text("5")  # resets VmHWM
    before = _status_bytes("VmRSS")
    work()
    return (_status_bytes("VmHWM") - before) / 1e6


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024
