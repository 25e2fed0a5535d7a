"""Interleaved timing of several candidates that do the same work."""

from __future__ import annotations

import json
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
from llm_jp_modernbert.modeling.flops import peak_flops

from .machine import extra_peak_megabytes, synchronize

OURS, COMPILED = "this library", "this library, compiled"
"""Names of candidates; every candidate of this library has a name that begins with `OURS`."""

Candidate = Callable[[int], float]
"""Takes the turn number and returns the number of processed units. Turn 0 warms up and may process fewer units."""


@dataclass(frozen=True)
class Case:
    """A piece of work and the candidates that do it.

    Attributes:
        name: description of the work.
        unit: unit of work, for example tokens.
        peer: name of the candidate that the others are compared with.
        candidates: the candidates by name.
        settings: shapes, data type and other settings that the results depend on.
        operations: floating-point operations per unit by candidate, where they are known.
        memory: whether to measure the extra peak memory of a turn.
        in_a_row: runs of a candidate per turn, of which the fastest counts. The first run may pay for memory that
            the previous candidate returned to the system.
    """

    name: str
    unit: str
    peer: str
    candidates: Mapping[str, Candidate]
    settings: Mapping[str, Any] = field(default_factory=dict)
    operations: Mapping[str, float] = field(default_factory=dict)
    memory: bool = False
    in_a_row: int = 1


@dataclass(frozen=True)
class Measurement:
    """The measurements of a case, as stored in the file of results.

    Attributes:
        name, unit, peer, settings, operations: see `Case`.
        rates: units per second of each turn, by candidate.
        extra_peak_megabytes: extra peak memory of a turn in MB, by candidate; empty if not measured.
    """

    name: str
    unit: str
    peer: str
    settings: dict[str, Any]
    operations: dict[str, float]
    rates: dict[str, list[float]]
    extra_peak_megabytes: dict[str, float]

    def median(self, candidate: str) -> float:
        """The median rate of a candidate, in units per second."""
        return statistics.median(self.rates[candidate])

    def ratio(self, candidate: str, against: str | None = None) -> float:
        """The speed of a candidate relative to another, by default to the peer.

        The median of the ratios of each turn: a disturbance of the machine affects all candidates of a turn.
        """
        pairs = zip(self.rates[candidate], self.rates[against or self.peer], strict=True)
        return statistics.median(rate / reference for rate, reference in pairs)

    def memory_share(self, candidate: str, against: str) -> float | None:
        """A candidate's extra peak memory as a share of another's, or None if not measured."""
        memory = self.extra_peak_megabytes
        return memory[candidate] / memory[against] if candidate in memory and memory.get(against) else None


def measure(case: Case, turns: int, memory: bool = True) -> Measurement:
    """Time the candidates in turn, so that disturbances of the machine affect all of them.

    Args:
        case: the work and its candidates.
        turns: number of timed turns, after one warm-up turn.
        memory: whether to measure memory if the case asks for it. This takes one more turn after the timed ones, since
            it empties the allocator's cache and so slows the candidate.
    """
    rates: dict[str, list[float]] = {name: [] for name in case.candidates}
    for turn in range(turns + 1):
        for name, run in case.candidates.items():
            rate = max(_rate(run, turn) for _ in range(case.in_a_row if turn else 1))
            if turn:
                rates[name].append(rate)
    megabytes: dict[str, float] = {}
    if case.memory and memory:
        for name, run in case.candidates.items():
            peak = extra_peak_megabytes(partial(run, turns + 1))
            if peak is not None:
                megabytes[name] = round(peak, 1)
    return Measurement(case.name, case.unit, case.peer, dict(case.settings), dict(case.operations), rates, megabytes)


def _rate(run: Candidate, turn: int) -> float:
    start = time.perf_counter()
    units = run(turn)
    synchronize()
    return units / (time.perf_counter() - start)


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
