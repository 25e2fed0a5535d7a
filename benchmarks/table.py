"""The table of benchmarks: its rows with their goals, and the run that measures them into one JSON file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json

from .cases import encoder, fill_mask, length_cost, tokenizing, training_step
from .machine import machine, matrix_rate, versions
from .measure import OURS, Case, Measurement, measure, show, write_json
from .models import Models, RealData

FILE = "table.json"
"""Name of the file of results."""

TITLES = {
    1: "Encoder, one long sequence",
    2: "Encoder, one shorter sequence",
    3: "Encoder, a batch of realistic lengths",
    4: "Training step, full rows",
    5: "Training step, real documents",
    6: "Filling the mask of a sentence",
    7: "Tokenizing a corpus",
    8: "Cost over length",
    9: "Encoder, a batch without padding",
}
NEED_DATA = (5, 6, 7)
"""Rows that need a tokenizer and real texts."""


@dataclass(frozen=True)
class Plan:
    """The rows to measure, and their sizes.

    Attributes:
        turns: timed turns of short cases.
        long_turns: timed turns of long sequences and training steps.
        layers: layers of the encoders; None for all layers of the shape.
        rows: rows per training batch; one case for each.
        prompts: prompts on which the likeliest tokens are compared; None for all.
        megabytes: text per turn of tokenizing, in MB.
        lengths: lengths of the single sequences in tokens, longest first; the first is also measured in float32.
        length: tokens per row in training and in the batch without padding.
        compiled: whether this library's compiled layers are a candidate.
        memory: whether to measure memory.
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
    numbers: tuple[int, ...] = tuple(TITLES)


# Every third layer is global: 4 of 11 layers, 8 of the base shape's 22. Half of the layers give the same ratios.
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
    """A goal of a case.

    Attributes:
        against: the candidate that this library is compared with.
        ratio: speed relative to that candidate; None if no gain is expected.
        memory: share of that candidate's extra peak memory.
    """

    against: str
    ratio: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        number: number of the row.
        make: builds the case with its models and data.
        goals: one goal per candidate to compare with; goals for missing candidates are ignored.
        is_long: whether a turn takes long.
        ours: the candidate that is compared.
    """

    number: int
    make: Callable[[], Case]
    goals: tuple[Goal, ...] = ()
    is_long: bool = False
    ours: str = OURS


def rows_of(plan: Plan, shape: str, data: RealData | None, model: str | None) -> list[Row]:
    """The rows of the plan, without those that lack data; see `run` for the arguments."""
    models = Models(shape)
    is_cut = plan.layers is not None and plan.layers < models.config.num_hidden_layers
    encoders = Models(shape, layers=plan.layers) if is_cut else models
    bf16, fp32, compiled = torch.bfloat16, torch.float32, plan.compiled
    longest, *shorter = plan.lengths
    goals_by_length = {8192: 2.6, 4096: 2.0, 2048: 1.5, 1024: 1.3}

    def encoder_row(number: int, dtype: torch.dtype, length: int, ratio: float | None, memory: float | None) -> Row:
        make = partial(encoder.one_length, encoders, dtype, 1, length, compiled)
        return Row(number, make, (Goal(encoder.PEER, ratio, memory),), is_long=length > 4096)

    mixed = partial(encoder.mixed_lengths, encoders, bf16, encoder.realistic_lengths(16, plan.length), compiled)
    mixed_goals = (Goal(encoder.PEER, 3.0), Goal(encoder.SORTED, 1.35))
    full = partial(training_step.full_rows, models, length=plan.length, bf16=True, compiled=compiled)
    full_goals = (Goal(training_step.PEER, 2.6, 1 / 6), Goal(training_step.SPARSE, 1.45, 1 / 2))
    real_goals = (Goal(training_step.PEER, 4.0), Goal(training_step.SPARSE, 2.2), Goal(training_step.SORTED))
    tokenizing_goals = (Goal(tokenizing.PEER, 5.0), Goal(tokenizing.FAST))
    parts = (length_cost.LOCAL, length_cost.GLOBAL, length_cost.WHOLE)
    cost = partial(length_cost.over_lengths, encoders, bf16, lengths=sorted(plan.lengths))
    equal = partial(encoder.one_length, encoders, fp32, 4, plan.length, compiled)
    rows = [
        encoder_row(1, bf16, longest, goals_by_length.get(longest), 1 / 6),
        encoder_row(1, fp32, longest, 2.3 if longest == 8192 else None, 1 / 6),
        *(encoder_row(2, bf16, length, goals_by_length.get(length), None) for length in shorter),
        Row(3, mixed, mixed_goals),
        *(Row(4, partial(full, rows=count), full_goals, is_long=True) for count in plan.rows),
        *(Row(8, partial(cost, part=part), is_long=True) for part in parts),
        Row(9, equal, (Goal(encoder.PEER),), is_long=True),
    ]
    if data is not None:
        real = partial(training_step.typical_documents, models, [data.corpus], data.tokenizer)
        real = partial(real, length=plan.length, bf16=True, compiled=compiled)
        sentence = partial(fill_mask.one_sentence, data.tokenizer, model, shape, plan.prompts)
        texts = partial(tokenizing.corpus, [data.corpus], data.tokenizer, plan.megabytes, torch.get_num_threads())
        rows += [Row(5, partial(real, rows=count), real_goals, is_long=True) for count in plan.rows]
        rows.append(Row(6, sentence, (Goal(fill_mask.PEER, 3.0),), ours=fill_mask.FAST))
        rows.append(Row(7, texts, tokenizing_goals))
    return sorted((row for row in rows if row.number in plan.numbers), key=lambda row: row.number)


def run(
    plan: Plan, shape: str, data: RealData | None, model: str | None, out: Path, command: str, console: Console
) -> dict[str, Any]:
    """Measure the rows of a plan, and write the file of results after each.

    Rows that are already in the file stay there until they are measured again.

    Args:
        plan: the rows to measure, and their sizes.
        shape: shape of the models.
        data: tokenizer and texts; None if not available.
        model: trained model for filling masks; None for random weights.
        out: folder of results.
        command: the command line, to be stored.
        console: where tables are printed.

    Returns:
        The content of the file.

    Raises:
        UsageError: no row has data, or the file has rows of other settings or of another machine.
    """
    start = time.perf_counter()
    disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # These two fields select cases; the others change how each case is measured.
    settings = {name: value for name, value in asdict(plan).items() if name not in ("numbers", "rows")}
    content: dict[str, Any] = {"command": command, "machine": machine(), "versions": versions()}
    content["settings"] = {"shape": shape, **settings}
    before = _earlier_results(out / FILE, content)
    rows = rows_of(plan, shape, data, model)
    skipped = [number for number in plan.numbers if number in NEED_DATA and data is None]
    if not rows:
        raise UsageError(f"--rows {','.join(map(str, skipped))} need real texts. Give their folder with --data.")
    content["matrix rate"] = {name: matrix_rate(getattr(torch, name), device) for name in ("float32", "bfloat16")}
    rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, rate in content["matrix rate"].items())
    console.print(f"{content['machine']['name']}, {content['machine']['threads']} threads; matrix products at {rates}")
    if skipped:
        console.print(f"Skipped rows {', '.join(map(str, skipped))}: they need real texts (--data).")
    earlier, cases = before.get("cases", []), []
    for row in rows:
        measurement = measure(row.make(), plan.long_turns if row.is_long else plan.turns, plan.memory)
        show(measurement, console)
        # Each case keeps its own matrix rate: a file may hold the rows of several runs.
        case = {"row": row.number, "command": command, "matrix rate": content["matrix rate"]}
        cases.append(case | _results(row, measurement))
        earlier = [case for case in earlier if case["row"] != row.number]
        content["cases"] = sorted([*earlier, *cases], key=lambda case: case["row"])
        missing = {*skipped, *before.get("left out", ())} - {case["row"] for case in content["cases"]}
        content["left out"] = sorted(missing)
        content["minutes"] = round((time.perf_counter() - start) / 60, 1)
        write_json(out / FILE, content)
    return content


def _results(row: Row, measurement: Measurement) -> dict[str, Any]:
    goals = [goal for goal in row.goals if goal.against in measurement.rates]
    ratios = {
        goal.against: {
            name: measurement.ratio(name, goal.against) for name in measurement.rates if name != goal.against
        }
        for goal in goals
    }
    return {**asdict(measurement), "ours": row.ours, "goals": [asdict(goal) for goal in goals], "ratios": ratios}


def _earlier_results(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The content of an existing file, which must have the same machine, versions and settings."""
    if not file.exists():
        return {}
    before: dict[str, Any] = read_json(file)
    for name, value in json.loads(json.dumps(content)).items():
        if name != "command" and before.get(name) != value:
            raise UsageError(
                f"{file} has rows of other {name}, which would be lost. Choose another --out folder, or remove it."
            )
    return before
