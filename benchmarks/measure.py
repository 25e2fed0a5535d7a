"""Interleaved timing and peak memory of several candidates that do the same work, and the machine they run on."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from llm_jp_modernbert.core.files import write_whole
from llm_jp_modernbert.core.versions import library_versions
from llm_jp_modernbert.modeling.flops import peak_flops

# Every candidate of this library has a name that begins with `OURS`.
OURS, COMPILED = "this library", "this library, compiled"

_LIBRARIES = ("torch", "transformers", "datasets", "tokenizers", "sentencepiece", "sentence-transformers", "numpy")
# Instruction sets that matrix products use, as Linux names them on x86 and on ARM.
_X86 = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16")
_INSTRUCTIONS = (*_X86, "asimd", "sve", "bf16", "i8mm")
# (rows, inner dimension, columns): one product of the base model and one square product. GPUs need larger ones.
_PRODUCTS_ON_CPU = ((4096, 768, 2304), (2048, 2048, 2048))
_PRODUCTS_ON_GPU = ((65536, 768, 2304), (16384, 16384, 16384))

# Takes the turn number and returns the number of processed units. Turn 0 warms up and may process fewer units.
Candidate = Callable[[int], float]


@dataclass(frozen=True)
class Case:
    """A piece of work and the candidates that do it."""

    name: str
    unit: str
    peer: str  # the candidate that the others are compared with
    candidates: Mapping[str, Candidate]
    settings: Mapping[str, Any] = field(default_factory=dict)
    operations: Mapping[str, float] = field(default_factory=dict)  # per unit and candidate, where they are known
    memory: bool = False  # whether to measure the extra peak memory of a turn
    # Runs of a candidate per turn, of which the fastest counts: the first may pay for memory that the previous
    # candidate returned to the system.
    in_a_row: int = 1


@dataclass(frozen=True)
class Measurement:
    """The measurements of a case, as stored in the file of results."""

    name: str
    unit: str
    peer: str
    settings: dict[str, Any]
    operations: dict[str, float]
    rates: dict[str, list[float]]  # units per second of each turn
    extra_peak_megabytes: dict[str, float]  # empty if not measured

    def median(self, candidate: str) -> float:
        """The median rate of a candidate, in units per second."""
        return statistics.median(self.rates[candidate])

    def ratio(self, candidate: str, against: str | None = None) -> float:
        """The median over turns of a candidate's speed relative to another's, by default the peer's."""
        pairs = zip(self.rates[candidate], self.rates[against or self.peer], strict=True)
        return statistics.median(rate / reference for rate, reference in pairs)

    def memory_share(self, candidate: str, against: str) -> float | None:
        """A candidate's extra peak memory as a share of another's, or None if not measured."""
        memory = self.extra_peak_megabytes
        return memory[candidate] / memory[against] if candidate in memory and memory.get(against) else None


def measure(case: Case, turns: int, memory: bool = True) -> Measurement:
    """Time the candidates in turn, so that disturbances of the machine affect all of them."""
    rates: dict[str, list[float]] = {name: [] for name in case.candidates}
    for turn in range(turns + 1):
        for name, run in case.candidates.items():
            rate = max(_rate(run, turn) for _ in range(case.in_a_row if turn else 1))
            if turn:
                rates[name].append(rate)
    megabytes: dict[str, float] = {}
    if case.memory and memory:
        # After the timed turns, since it empties the allocator's cache and so slows the candidate.
        for name, run in case.candidates.items():
            peak = extra_peak_megabytes(partial(run, turns + 1))
            if peak is not None:
                megabytes[name] = round(peak, 1)
    return Measurement(case.name, case.unit, case.peer, dict(case.settings), dict(case.operations), rates, megabytes)


def _rate(run: Candidate, turn: int) -> float:
    start = time.perf_counter()
    units = run(turn)
    _synchronize()
    return units / (time.perf_counter() - start)


def _synchronize() -> None:
    """Wait until the GPU has finished, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def extra_peak_megabytes(work: Callable[[], Any]) -> float | None:
    """Run a call and measure how far it raises memory in MB of 10⁶ bytes; None if the system does not report it."""
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


def environment() -> dict[str, Any]:
    """The machine, with its memory in GB of 10⁹ bytes, and the versions of Python and of the compared libraries."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.is_file() else []
    processor_facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    processor = processor_facts.get("model name") or platform.processor() or platform.machine()
    flags = (processor_facts.get("flags") or processor_facts.get("Features") or "").split()
    machine: dict[str, Any] = {
        "name": torch.cuda.get_device_name() if torch.cuda.is_available() else processor,
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction sets": [name for name in _INSTRUCTIONS if name in flags],
        "system": f"{platform.system()} {platform.machine()}",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        machine["memory GB"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    if torch.cuda.is_available():
        machine["CUDA"] = torch.version.cuda
    return {"machine": machine, "versions": {"python": platform.python_version(), **library_versions(_LIBRARIES)}}


def matrix_rate(dtype: torch.dtype) -> float:
    """Measure the fastest matrix product, in floating-point operations per second."""
    device, best = "cuda" if torch.cuda.is_available() else "cpu", 0.0
    for rows, inner, columns in _PRODUCTS_ON_CPU if device == "cpu" else _PRODUCTS_ON_GPU:
        left, right = (torch.randn(size, inner, device=device).to(dtype) for size in (rows, columns))
        for _ in range(10):
            _synchronize()
            start = time.perf_counter()
            torch.nn.functional.linear(left, right)
            _synchronize()
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - start))
    return best


def show(measurement: Measurement, console: Console) -> None:
    """Print median rates, ratios to the peer and, on a GPU, the utilization."""
    settings = ", ".join(f"{key} {value}" for key, value in measurement.settings.items())
    console.print(f"[bold]{measurement.name}[/]: {settings}", highlight=False)
    memory, operations = measurement.extra_peak_megabytes, measurement.operations
    is_busy_shown = torch.cuda.is_available() and OURS in operations
    titles = ["", f"{measurement.unit}/s (median)", f"ratio to {measurement.peer}"]
    titles += ["extra peak MB"] if memory else []
    titles += ["TFLOP/s", "share of peak"] if is_busy_shown else []
    table = Table(*titles, box=None)
    for name in measurement.rates:
        cells = [name, f"{measurement.median(name):,.1f}", f"{measurement.ratio(name):.2f}"]
        if memory:
            cells.append(f"{memory[name]:,.0f}")
        if is_busy_shown:
            rate = measurement.median(name) * operations[OURS]
            peak = peak_flops(torch.cuda.get_device_name(), str(measurement.settings["dtype"]).split()[0])
            cells += [f"{rate / 1e12:,.1f}", f"{rate / peak:.1%}" if peak else "unknown"]
        table.add_row(*cells)
    console.print(table)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically and create missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=1, default=list) + "\n")
