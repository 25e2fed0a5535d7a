"""Interleaved timing of what does the same work in several ways, with tables and JSON, shared by all benchmarks."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from llm_jp_modernbert.core.files import write_whole

from .machine import machine, versions
from .memory import ExtraPeak

OURS, COMPILED = "this library", "this library, compiled"
"""Names of candidates; those of this library begin with the first."""


@dataclass(frozen=True)
class Case:
    """One piece of work and who does it.

    Attributes:
        name: what is done.
        unit: what is counted, such as tokens.
        peer: the candidate that the others are compared with.
        candidates: by name; each takes the number of the turn and returns how many units it has done. Turn 0 warms up
            and may be shorter than the others.
        settings: shapes, dtype and the like.
        operations: floating-point operations of a unit, by candidate, where there is a bound to compute.
        memory: whether the extra peak memory of a turn is measured.
        in_a_row: how often a turn runs a candidate. The fastest counts: in the first a candidate may still fetch the
            memory that others gave back.
    """

    name: str
    unit: str
    peer: str
    candidates: Mapping[str, Callable[[int], float]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    operations: Mapping[str, float] = field(default_factory=dict)
    memory: bool = False
    in_a_row: int = 1


@dataclass(frozen=True)
class Measured:
    """What was measured of a case.

    Attributes:
        name, unit, peer, settings, operations: see `Case`.
        rates: units per second of each turn, by candidate.
        extra_peak_megabytes: how far a turn raised the memory, by candidate; empty where it was not measured.
    """

    name: str
    unit: str
    peer: str
    settings: dict[str, Any]
    operations: dict[str, float]
    rates: dict[str, list[float]]
    extra_peak_megabytes: dict[str, float]

    def median(self, candidate: str) -> float:
        """Units per second."""
        return statistics.median(self.rates[candidate])

    def ratio(self, candidate: str, against: str | None = None) -> float:
        """How many times as fast a candidate is as another, by default as the peer.

        Of turns rather than of medians: what slows a turn slows all of its candidates.
        """
        pairs = zip(self.rates[candidate], self.rates[against or self.peer], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    def memory_share(self, candidate: str, against: str) -> float | None:
        """A candidate's extra peak memory as a share of another's, where it was measured."""
        memory = self.extra_peak_megabytes
        return memory[candidate] / memory[against] if candidate in memory and memory.get(against) else None


def measure(case: Case, turns: int, memory: bool = True) -> Measured:
    """Runs the candidates in turn, so that whatever else the machine does meets all of them.

    Args:
        case: what is run.
        turns: that count; one more comes before them.
        memory: whether to measure memory as well, if the case is for it, in one more turn after them: the allocator
            gives back what it keeps, for which a candidate may be slower.
    """
    rates: dict[str, list[float]] = {name: [] for name in case.candidates}
    for turn in range(turns + 1):
        for name, run in case.candidates.items():
            rate = max(_rate(run, turn) for _ in range(case.in_a_row if turn else 1))
            if turn:
                rates[name].append(rate)
    megabytes: dict[str, float] = {}
    for name, run in case.candidates.items() if case.memory and memory else ():
        watched = ExtraPeak()
        run(turns + 1)
        if (risen := watched.megabytes()) is not None:
            megabytes[name] = round(risen, 1)
    return Measured(case.name, case.unit, case.peer, dict(case.settings), dict(case.operations), rates, megabytes)


def _rate(run: Callable[[int], float], turn: int) -> float:
    began = time.perf_counter()
    done = run(turn)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return done / (time.perf_counter() - began)


def show(measured: Measured, console: Console) -> None:
    """Prints a table of medians and their ratios to the peer's."""
    settings = ", ".join(f"{key} {value}" for key, value in measured.settings.items())
    console.print(f"[bold]{measured.name}[/]: {settings}", highlight=False)
    memory = measured.extra_peak_megabytes
    titles = ["", f"{measured.unit}/s (median)", f"ratio to {measured.peer}", *(["extra peak MB"] if memory else [])]
    table = Table(*titles, box=None)
    for candidate in measured.rates:
        cells = [candidate, f"{measured.median(candidate):,.1f}", f"{measured.ratio(candidate):.2f}"]
        table.add_row(*cells, *([f"{memory[candidate]:,.0f}"] if memory else []))
    console.print(table)


def report(case: Case, turns: int, out: Path | None) -> None:
    """Measures one case, prints its table, and writes it as JSON with the machine and the versions.

    Args:
        case: what is run.
        turns: that count.
        out: a file for the JSON, or None.
    """
    measured = measure(case, turns)
    about = machine()
    show(measured, Console())
    print(f"{about['name']}, {about['threads']} threads; {turns} turns")
    if out is not None:
        ratios = {candidate: measured.ratio(candidate) for candidate in measured.rates}
        content = {"machine": about, "versions": versions(), **asdict(measured), "ratios": ratios}
        write_json(out, content)


def write_json(path: Path, content: Any) -> None:
    """Writes a file that people read as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=1, default=list) + "\n")
