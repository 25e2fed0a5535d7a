"""Interleaved timing, tables and JSON, shared by all benchmarks."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table


def interleaved(candidates: Mapping[str, Callable[[int], float]], repeats: int) -> dict[str, list[float]]:
    """Runs candidates in turn, so that whatever else the machine does meets all of them.

    Args:
        candidates: by name; each takes the number of the turn and returns what it has done, such as tokens.
        repeats: turns that count; one more comes before them.

    Returns:
        Per candidate what it did per second, in each turn.
    """
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, run in candidates.items():
            began = time.perf_counter()
            done = run(turn)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            if turn:
                rates[name].append(done / seconds)
    return rates


def report(
    name: str, settings: Mapping[str, Any], rates: Mapping[str, Sequence[float]], peer: str, out: Path | None
) -> None:
    """Prints medians and their ratios to the peer's, and writes them as JSON.

    Args:
        name: of the benchmark.
        settings: shapes, dtype and the like.
        rates: per candidate what it did per second, in each turn.
        peer: the candidate that the others are compared with.
        out: a file for the JSON, or None.
    """
    medians = {candidate: statistics.median(values) for candidate, values in rates.items()}
    # Of turns rather than of medians: what slows a turn slows all of its candidates.
    ratios = {
        candidate: statistics.median(a / b for a, b in zip(values, rates[peer], strict=True))
        for candidate, values in rates.items()
    }
    conditions = {
        **settings,
        "turns": len(next(iter(rates.values()))),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
    }
    console = Console()
    console.print(f"[bold]{name}[/]: " + ", ".join(f"{key} {value}" for key, value in conditions.items()))
    table = Table("", "per second (median)", f"ratio to {peer}", box=None)
    for candidate, median in medians.items():
        table.add_row(candidate, f"{median:,.0f}", f"{ratios[candidate]:.2f}")
    console.print(table)
    if out is not None:
        content = {"benchmark": name, "conditions": conditions, "rates": rates, "ratios": ratios}
        out.write_text(json.dumps(content, ensure_ascii=False, indent=1, default=list) + "\n", encoding="utf-8")
