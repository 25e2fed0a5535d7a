"""The machine that measures: what it is called, what is installed on it, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from llm_jp_modernbert.core.versions import library_versions

_LIBRARIES = ("torch", "transformers", "datasets", "tokenizers", "sentencepiece", "sentence-transformers", "numpy")
# Instruction sets that matrix products are built on, as Linux names them.
_X86 = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16")
_INSTRUCTIONS = (*_X86, "asimd", "sve", "bf16", "i8mm")
# Rows, inner dimension and columns of the products: one of the base model's, and a square one. On a GPU such small
# ones would be over before they were begun.
_PRODUCTS, _PRODUCTS_ON_GPUS = ((4096, 768, 2304), (2048, 2048, 2048)), ((65536, 768, 2304), (16384, 16384, 16384))
_REPEATS = 10


def machine() -> dict[str, Any]:
    """The machine: name of its processor or GPU, cores, threads of torch, instruction sets, memory in GB of 10⁹ B."""
    information = _processor_information()
    processor = information.get("model name") or platform.processor() or platform.machine()
    flags = (information.get("flags") or information.get("Features") or "").split()
    found: dict[str, Any] = {
        "name": torch.cuda.get_device_name() if torch.cuda.is_available() else processor,
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction sets": [name for name in _INSTRUCTIONS if name in flags],
        "system": f"{platform.system()} {platform.machine()}",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory GB"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    if torch.cuda.is_available():
        found["CUDA"] = torch.version.cuda
    return found


def versions() -> dict[str, str]:
    """Of Python and of the libraries that are compared."""
    return {"python": platform.python_version(), **library_versions(_LIBRARIES)}


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations per second of the best of a few matrix products: what a model can hardly get beyond.

    Args:
        dtype: of the factors.
        device: such as `"cpu"`.
    """
    best = 0.0
    for rows, inner, columns in _PRODUCTS if device == "cpu" else _PRODUCTS_ON_GPUS:
        left = torch.randn(rows, inner, device=device).to(dtype)
        right = torch.randn(columns, inner, device=device).to(dtype)
        for _ in range(_REPEATS):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            began = time.perf_counter()
            torch.nn.functional.linear(left, right)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - began))
    return best


def _processor_information() -> dict[str, str]:
    """What Linux says of the first processor."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    lines = path.read_text().split("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
