"""Reading a file of results, and the overview in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json

from .measure import COMPILED, Measurement
from .table import FILE, Goal

_CASE_KEYS = (*(field.name for field in fields(Measurement)), "row", "command", "matrix rate", "goals", "ours")


@dataclass(frozen=True)
class Comparison:
    """This library compared with one candidate of a case.

    Attributes:
        row: number of the row.
        measurement: the measured case.
        goal: the other candidate, and the goals.
        ratios: speed relative to it, without and with compiled layers; None if not measured.
        memory: share of its extra peak memory, without and with compiled layers; None if not measured.
        floor: the ratio at which every counted operation runs at the rate of the machine's fastest matrix product;
            None if operations are not counted.
    """

    row: int
    measurement: Measurement
    goal: Goal
    ratios: tuple[float, float | None]
    memory: tuple[float | None, float | None]
    floor: float | None


def read(folder: Path) -> dict[str, Any]:
    """Read the file of results in a folder.

    Raises:
        UsageError: the file is missing or was written by another version.
    """
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{path}: no such file. Run `python -m benchmarks --out {folder}` first.")
    content: Any = read_json(path)
    cases = content.get("cases") if isinstance(content, dict) else None
    if not cases or any(name not in case for case in cases for name in _CASE_KEYS):
        raise UsageError(f"{path} is not a file of results of this version. Measure again with --out {folder}.")
    return content


def measurement_of(case: dict[str, Any]) -> Measurement:
    """The measurement of a case in a file of results."""
    return Measurement(**{field.name: case[field.name] for field in fields(Measurement)})


def comparisons(content: dict[str, Any]) -> list[Comparison]:
    """All comparisons in a file of results, in its order."""
    compared = []
    for case in content["cases"]:
        measurement, ours = measurement_of(case), case["ours"]
        for goal in (Goal(**goal) for goal in case["goals"]):
            against = goal.against
            compiled = measurement.ratio(COMPILED, against) if COMPILED in measurement.rates else None
            floor = None
            if ours in measurement.operations:
                dtype = measurement.settings["dtype"].split()[0]
                # The best rate of all runs: a busy machine may slow the products of one run.
                rate = max(other["matrix rate"][dtype] for other in content["cases"])
                floor = rate / measurement.operations[ours] / measurement.median(against)
            ratios = (measurement.ratio(ours, against), compiled)
            memory = (measurement.memory_share(ours, against), measurement.memory_share(COMPILED, against))
            compared.append(Comparison(case["row"], measurement, goal, ratios, memory, floor))
    return compared


def by_case(compared: list[Comparison]) -> list[list[Comparison]]:
    """Group the comparisons of each case."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in compared:
        groups.setdefault(comparison.measurement.name, []).append(comparison)
    return list(groups.values())


def cell(form: str, value: float | None) -> str:
    """A formatted value, or an empty cell."""
    return "" if value is None else form.format(value)


def goal_cell(
    form: str, goal: float | None, values: tuple[float | None, ...], better: Callable[..., float] = max
) -> str:
    """A formatted goal with a mark that says whether it is reached, or an empty cell without a goal.

    Args:
        form: format of the goal.
        goal: the goal.
        values: measured values, of which the best counts; None if not measured.
        better: `max` if higher values are better, `min` if lower ones are.
    """
    if goal is None:
        return ""
    known = [value for value in values if value is not None]
    if not known:
        return f"{form.format(goal)} (not measured)"
    return f"{form.format(goal)} {'✓' if better(*known, goal) in known else '✗'}"


def overview(content: dict[str, Any], reference: dict[str, Any] | None = None) -> Table:
    """The comparisons with their goals, for a terminal.

    Args:
        content: content of a file of results.
        reference: content of another file, whose ratios are shown for comparison.
    """
    known = {(c.measurement.name, c.goal.against): c.ratios[0] for c in comparisons(reference or {"cases": []})}
    compared = comparisons(content)
    is_compiled = any(comparison.ratios[1] is not None for comparison in compared)
    table = Table("row", "case", "against", "this library", *(["compiled"] if is_compiled else []), "goal", box=None)
    if reference is not None:
        table.add_column("in the table")
    for column in table.columns:
        column.overflow = "fold"
    for comparison in compared:
        name, goal, (ratio, compiled) = comparison.measurement.name, comparison.goal, comparison.ratios
        cells = [str(comparison.row), name, goal.against, f"{ratio:.2f} ×"]
        if is_compiled:
            cells.append(cell("{:.2f} ×", compiled))
        cells.append(goal_cell("{:g} ×", goal.ratio, comparison.ratios))
        before = known.get((name, goal.against))
        if before is not None:
            cells.append(f"{before:.2f} × ({ratio / before - 1:+.0%})")
        table.add_row(*cells)
    return table
