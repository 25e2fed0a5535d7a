"""What the file of results says, in the form that the README's table and the plot take it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llm_jp_modernbert.errors import UsageError

from .measure import COMPILED, Measured
from .table import FILE, Goal


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
        """The smaller share of the other's extra peak memory, where it was measured."""
        shares = [self.measured.memory_share(name, self.goal.against) for name in (self.ours, COMPILED)]
        return min((share for share in shares if share is not None), default=None)


def read(folder: Path) -> dict[str, Any]:
    """The file of results in a folder.

    Raises:
        UsageError: there is none.
    """
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{path}: no such file. Run `python -m benchmarks --out {folder}` first.")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def measured_of(case: dict[str, Any]) -> Measured:
    """A case of the file as what `measure` returned."""
    return Measured(**{field.name: case[field.name] for field in fields(Measured)})


def comparisons(content: dict[str, Any]) -> list[Compared]:
    """Every comparison of a file of results, in its order."""
    found = []
    for case in content["cases"]:
        measured = measured_of(case)
        for goal in (Goal(**goal) for goal in case["goals"]):
            floor = _floor(measured, case["ours"], goal.against, case["matrix rate"])
            found.append(Compared(case["row"], measured, goal, case["ours"], floor))
    return found


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
