"""What the file of results says, in the form that the README's table and the plot take it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json

from .measure import COMPILED, Measured
from .table import FILE, Goal

# Of a case.
_NEEDED = (*(field.name for field in fields(Measured)), "row", "command", "matrix rate", "goals", "ours")


@dataclass(frozen=True)
class Compared:
    """This library against one candidate of a case.

    Attributes:
        row: of the table.
        measured: the case.
        goal: whom it is compared with, and what is aimed at.
        ours: the candidate that counts.
        floor: the highest ratio to be had on the machine, where it is known: every counted operation at the rate of
            its best matrix product.
    """

    row: int
    measured: Measured
    goal: Goal
    ours: str
    floor: float | None

    @property
    def ratio(self) -> float:
        """This library's speed over the other's."""
        return self.measured.ratio(self.ours, self.goal.against)

    @property
    def compiled(self) -> float | None:
        """The same with compiled layers, where that was measured."""
        return self.measured.ratio(COMPILED, self.goal.against) if COMPILED in self.measured.rates else None

    @property
    def best(self) -> float:
        """The higher of the two."""
        return max(self.ratio, self.compiled or 0.0)

    @property
    def memory(self) -> float | None:
        """This library's share of the other's extra peak memory, where it was measured."""
        return self.measured.memory_share(self.ours, self.goal.against)

    @property
    def compiled_memory(self) -> float | None:
        """The same with compiled layers."""
        return self.measured.memory_share(COMPILED, self.goal.against)

    @property
    def least_memory(self) -> float | None:
        """The smaller of the two."""
        return min((share for share in (self.memory, self.compiled_memory) if share is not None), default=None)


def read(folder: Path) -> dict[str, Any]:
    """The file of results in a folder.

    Raises:
        UsageError: there is none, or one that was written by another version.
    """
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{path}: no such file. Run `python -m benchmarks --out {folder}` first.")
    content: Any = read_json(path)
    cases = content.get("cases") if isinstance(content, dict) else None
    if not cases or any(name not in case for case in cases for name in _NEEDED):
        raise UsageError(f"{path} is not what this version writes. Remove it, and measure with --out {folder}.")
    return content


def measured_of(case: dict[str, Any]) -> Measured:
    """A case of the file as what `measure` returned."""
    return Measured(**{field.name: case[field.name] for field in fields(Measured)})


def comparisons(content: dict[str, Any]) -> list[Compared]:
    """Every comparison of a file of results, in its order."""
    cases = content["cases"]
    # The best of all runs: in a busy hour a product would be slower than the machine is.
    rates = {
        name: max(case["matrix rate"][name] for case in cases) for name in (cases[0]["matrix rate"] if cases else ())
    }
    found = []
    for case in cases:
        measured = measured_of(case)
        for goal in (Goal(**goal) for goal in case["goals"]):
            floor = _floor(measured, case["ours"], goal.against, rates)
            found.append(Compared(case["row"], measured, goal, case["ours"], floor))
    return found


def overview(content: dict[str, Any], reference: dict[str, Any] | None = None) -> Table:
    """The comparisons with their goals, for a terminal.

    Args:
        content: of a file of results.
        reference: of another, whose ratios are put beside them.
    """
    known = {(one.measured.name, one.goal.against): one.ratio for one in comparisons(reference or {"cases": []})}
    compared = comparisons(content)
    is_compiled = any(one.compiled is not None for one in compared)
    table = Table("row", "what", "against", "this library", *(["compiled"] if is_compiled else []), "goal", box=None)
    if reference is not None:
        table.add_column("in the table")
    for column in table.columns:
        column.overflow = "fold"
    for one in compared:
        cells = [str(one.row), one.measured.name, one.goal.against, f"{one.ratio:.2f} ×"]
        if is_compiled:
            cells.append("" if one.compiled is None else f"{one.compiled:.2f} ×")
        cells.append(marked("{:g} ×", one.goal.ratio, one.best, operator.ge))
        before = known.get((one.measured.name, one.goal.against))
        if before is not None:
            cells.append(f"{before:.2f} × ({one.ratio / before - 1:+.0%})")
        table.add_row(*cells)
    return table


def marked(form: str, goal: float | None, found: float | None, is_reached: Callable[[float, float], bool]) -> str:
    """A goal and whether it is reached; nothing where there is none.

    Args:
        form: of the goal, for `str.format`.
        goal: what is aimed at.
        found: what was measured, if it was.
        is_reached: of `found` and `goal`.
    """
    if goal is None:
        return ""
    return form.format(goal) + (" (not measured)" if found is None else " ✓" if is_reached(found, goal) else " ✗")


def by_case(compared: Sequence[Compared]) -> list[list[Compared]]:
    """Comparisons of one case together."""
    groups: dict[str, list[Compared]] = {}
    for one in compared:
        groups.setdefault(one.measured.name, []).append(one)
    return list(groups.values())


def _floor(measured: Measured, ours: str, against: str, matrix_rates: dict[str, float]) -> float | None:
    if ours not in measured.operations:
        return None
    rate = matrix_rates[measured.settings["dtype"].split()[0]]
    return rate / measured.operations[ours] / measured.median(against)
