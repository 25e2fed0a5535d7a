"""The table: every row that is measured against transformers, with its goals, in one run and one JSON file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json

from .cases import encoder, fill_mask, length_cost, tokenizing, training_step
from .machine import machine, matrix_rate, versions
from .measure import OURS, Case, measure, show, write_json
from .models import Models
from .texts import RealData

FILE = "table.json"
"""Name of the file in the folder of results."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        turns: of a case that takes little time.
        long_turns: of one that takes much: a long sequence or a training step.
        layers: of the encoders, where not all of the shape's.
        rows: of training steps. What a step costs whatever its size weighs more with fewer.
        prompts: on which first candidates are compared, where not all.
        megabytes: of text that a turn tokenises.
        lengths: tokens of the single sequences, longest first; the first is also read in float32.
        length: tokens of a row in training and of the batch that has no padding.
        compiled: whether this library's compiled layers are candidates.
        memory: whether memory is measured.
        numbers: rows of the table.
    """

    turns: int = 5
    long_turns: int = 5
    layers: int | None = None
    rows: tuple[int, ...] = (4, 1)
    prompts: int | None = None
    megabytes: float = 5.0
    lengths: tuple[int, ...] = (8192, 4096, 2048, 1024)
    length: int = 1024
    compiled: bool = True
    memory: bool = True
    numbers: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9)


_CASES = ("numbers", "rows")
"""Fields of a plan that say which cases there are; the others, how each is measured."""

# Every third layer is global, the first among them: of 11 layers four, of the base shape's 22 eight. Ratios are the
# same in half of the time.
WHOLE = Plan(layers=11)
QUICK = Plan(
    turns=2,
    long_turns=1,
    layers=3,
    rows=(1,),
    prompts=8,
    megabytes=1.0,
    compiled=False,
    memory=False,
    numbers=(1, 2, 3, 4, 5, 6, 7),
)


@dataclass(frozen=True)
class Goal:
    """What is aimed at.

    Attributes:
        against: the candidate that this library is compared with.
        ratio: how many times as fast it is to be; None where there is nothing to be gained.
        memory: share of that candidate's extra peak memory that is to be enough.
    """

    against: str
    ratio: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Row:
    """A case of the table.

    Attributes:
        number: row that it belongs to.
        make: makes the case; its models and data are made there, not before.
        goals: for each candidate that this library is compared with, where there is one of that name.
        is_long: whether a turn takes long.
        ours: the candidate that counts.
    """

    number: int
    make: Callable[[], Case]
    goals: tuple[Goal, ...] = ()
    is_long: bool = False
    ours: str = OURS


TITLES = {
    1: "Encoder, one long sequence",
    2: "Encoder, one shorter sequence",
    3: "Encoder, a batch of realistic lengths",
    4: "Training step, full rows",
    5: "Training on real documents",
    6: "Filling the mask of a sentence",
    7: "Tokenising a corpus",
    8: "Cost over length",
    9: "Where there is nothing to gain",
}

NEED_DATA = (5, 6, 7)
"""Rows that need real data."""

_SPEED = {8192: 2.6, 4096: 2.0, 2048: 1.5, 1024: 1.3}
_SPEED_FLOAT32 = {8192: 2.3}


class Rows:
    """The rows of one run, which share their models.

    Args:
        plan: how much is measured.
        shape: of the models.
        data: real data, if there is some.
        model: a trained model that fills masks, in the place of random weights.
    """

    def __init__(self, plan: Plan, shape: str, data: RealData | None, model: str | None) -> None:
        self.plan, self.shape, self.data, self.model = plan, shape, data, model

    @cached_property
    def _encoders(self) -> Models:
        layers = self.plan.layers or self._whole.config.num_hidden_layers
        return Models(self.shape, layers=layers) if layers < self._whole.config.num_hidden_layers else self._whole

    @cached_property
    def _whole(self) -> Models:
        return Models(self.shape)

    def __iter__(self) -> Iterator[Row]:
        """Those of the plan that there is data for."""
        for row in self._all():
            if row.number in self.plan.numbers and (self.data is not None or row.number not in NEED_DATA):
                yield row

    @property
    def left_out(self) -> list[int]:
        """Rows of the plan that there is no data for."""
        return [number for number in self.plan.numbers if number in NEED_DATA and self.data is None]

    def _all(self) -> Iterator[Row]:
        plan = self.plan
        longest = plan.lengths[0]
        yield self._single(1, longest, torch.bfloat16, _SPEED.get(longest), memory=1 / 6)
        yield self._single(1, longest, torch.float32, _SPEED_FLOAT32.get(longest), memory=1 / 6)
        for length in plan.lengths[1:]:
            yield self._single(2, length, torch.bfloat16, _SPEED.get(length))
        yield Row(3, self._lengths, (Goal(encoder.PEER, 3.0), Goal(encoder.SORTED, 1.35)))
        full = (Goal(training_step.PEER, 2.6, 1 / 6), Goal(training_step.SPARSE, 1.45, 1 / 2))
        for rows in plan.rows:
            yield Row(4, partial(self._full_rows, rows), full, is_long=True)
        real = (Goal(training_step.PEER, 4.0), Goal(training_step.SPARSE, 2.2), Goal(training_step.SORTED))
        for rows in plan.rows:
            yield Row(5, partial(self._documents, rows), real, is_long=True)
        yield Row(6, self._sentence, (Goal(fill_mask.PEER, 3.0),), ours=fill_mask.FAST)
        yield Row(7, self._tokenizing, (Goal(tokenizing.PEER, 5.0), Goal(tokenizing.FAST)))
        for what in (length_cost.LOCAL, length_cost.GLOBAL, length_cost.WHOLE):
            yield Row(8, partial(self._cost, what), is_long=True)
        yield Row(9, self._equal, (Goal(encoder.PEER),), is_long=True)

    def _single(
        self, number: int, length: int, dtype: torch.dtype, speed: float | None, memory: float | None = None
    ) -> Row:
        def make() -> Case:
            return encoder.of_one_length(self._encoders, dtype, 1, length, self.plan.compiled)

        return Row(number, make, (Goal(encoder.PEER, speed, memory),), is_long=length > 4096)

    def _lengths(self) -> Case:
        lengths = encoder.realistic_lengths(16, self.plan.length)
        return encoder.of_lengths(self._encoders, torch.bfloat16, lengths, self.plan.compiled)

    def _equal(self) -> Case:
        return encoder.of_one_length(self._encoders, torch.float32, 4, self.plan.length, self.plan.compiled)

    def _full_rows(self, rows: int) -> Case:
        return training_step.full_rows(self._whole, rows, self.plan.length, True, self.plan.compiled)

    def _documents(self, rows: int) -> Case:
        plan, data = self.plan, self._data
        batch = training_step.typical_batch([data.corpus], data.tokenizer, plan.length, rows)
        return training_step.real_documents(self._whole, batch, rows, plan.length, True, plan.compiled)

    def _sentence(self) -> Case:
        return fill_mask.one_sentence(self._data.tokenizer, self.model, self.shape, prompts=self.plan.prompts)

    def _tokenizing(self) -> Case:
        data, threads = self._data, torch.get_num_threads()
        return tokenizing.of_texts([data.corpus], data.tokenizer, self.plan.megabytes, threads)

    def _cost(self, what: str) -> Case:
        return length_cost.over_lengths(self._encoders, torch.bfloat16, what, sorted(self.plan.lengths))

    @property
    def _data(self) -> RealData:
        assert self.data is not None
        return self.data


def run(
    plan: Plan, shape: str, data: RealData | None, model: str | None, out: Path, command: str, console: Console
) -> dict[str, Any]:
    """Measures the rows of a plan, and writes the file of results after each.

    Rows that the file has stay in it until they are measured anew.

    Args:
        plan: how much is measured.
        shape: of the models.
        data: real data, if there is some.
        model: a trained model that fills masks, in the place of random weights.
        out: folder of results.
        command: what was typed, to be written down.
        console: where tables are shown.

    Returns:
        What was written.

    Raises:
        UsageError: there is no data for any of the rows, or the file has rows of other settings or another machine.
    """
    began = time.perf_counter()
    disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = Rows(plan, shape, data, model)
    # Which cases there are they say themselves.
    settings = {"shape": shape, **{name: value for name, value in asdict(plan).items() if name not in _CASES}}
    content: dict[str, Any] = {
        "command": command,
        "machine": machine(),
        "versions": versions(),
        "settings": settings,
    }
    before = _kept(out / FILE, content)
    if set(plan.numbers) <= set(rows.left_out):
        raise UsageError(f"--rows {','.join(map(str, plan.numbers))} need real texts. Name their folder with --data.")
    content["matrix rate"] = {name: matrix_rate(getattr(torch, name), device) for name in ("float32", "bfloat16")}
    kept, cases = before.get("cases", []), []
    rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, rate in content["matrix rate"].items())
    console.print(f"{content['machine']['name']}, {content['machine']['threads']} threads; matrix products at {rates}")
    if rows.left_out:
        console.print(
            f"Left out: rows {', '.join(map(str, rows.left_out))}, which need a tokenizer and real texts. Name their "
            "folder with --data."
        )
    for row in rows:
        measured = measure(row.make(), plan.long_turns if row.is_long else plan.turns, plan.memory)
        goals = [goal for goal in row.goals if goal.against in measured.rates]
        show(measured, console)
        case = {
            "row": row.number,
            "command": command,
            # Rows of several runs may stand in one file, and each has the machine of its hour.
            "matrix rate": content["matrix rate"],
            **asdict(measured),
            "ours": row.ours,
            "goals": [asdict(goal) for goal in goals],
            "ratios": {goal.against: _ratios(measured.ratio, measured.rates, goal.against) for goal in goals},
        }
        cases.append(case)
        kept = [one for one in kept if one["row"] != row.number]
        content["cases"] = sorted([*kept, *cases], key=lambda one: one["row"])
        missing = {*rows.left_out, *before.get("left out", ())} - {one["row"] for one in content["cases"]}
        content["left out"] = sorted(missing)
        content["minutes"] = round((time.perf_counter() - began) / 60, 1)
        write_json(out / FILE, content)
    return content


def _kept(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """What runs before this one have written, in the same way and on the same machine; nothing if there were none."""
    if not file.exists():
        return {}
    before: dict[str, Any] = read_json(file)
    for name, value in json.loads(json.dumps(content)).items():
        if name != "command" and before.get(name) != value:
            raise UsageError(
                f"{file} has rows of other {name}: they would be lost. Choose another folder with --out, or remove it."
            )
    return before


def _ratios(ratio: Callable[[str, str], float], candidates: Iterable[str], against: str) -> dict[str, float]:
    return {name: ratio(name, against) for name in candidates if name != against}
