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

from .cases import encoder, fill_mask, tokenizing, training_step
from .measure import OURS, Case, Measurement, environment, matrix_rate, measure, show, write_json
from .models import Models, RealData

FILE = "table.json"
ROWS = tuple(range(1, 10))
_NEED_DATA = (5, 6, 7)  # rows that need a tokenizer and real texts


@dataclass(frozen=True)
class Plan:
    """The rows to measure, and their sizes."""

    turns: int = 5  # timed turns of short cases
    long_turns: int = 5  # timed turns of long sequences and training steps
    layers: int | None = None  # layers of the encoders; None for all layers of the shape
    rows: tuple[int, ...] = (4, 1)  # rows per training batch; one case for each
    prompts: int | None = None  # prompts on which the likeliest tokens are compared; None for all
    megabytes: float = 5.0  # text per turn of tokenizing
    # Lengths of the single sequences in tokens, longest first; the first is also measured in float32.
    lengths: tuple[int, ...] = (8192, 4096, 2048, 1024)
    length: int = 1024  # tokens per row in training and in the batch without padding
    compiled: bool = True  # whether this library's compiled layers are a candidate
    memory: bool = True
    numbers: tuple[int, ...] = ROWS  # rows of the table


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
    """A goal of a case relative to a candidate: the speed, and the share of its extra peak memory."""

    against: str
    ratio: float | None = None  # None if no gain is expected
    memory: float | None = None


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    number: int
    make: Callable[[], Case]
    goals: tuple[Goal, ...] = ()  # goals for missing candidates are ignored
    is_long: bool = False
    ours: str = OURS  # the candidate that is compared


def rows_of(plan: Plan, shape: str, data: RealData | None, model: str | None) -> list[Row]:
    """The rows of the plan, without those that lack data; see `run` for the arguments."""
    models = Models(shape)
    is_cut = plan.layers is not None and plan.layers < models.config.num_hidden_layers
    encoders = Models(shape, layers=plan.layers) if is_cut else models
    bf16, fp32, length, compiled = "bfloat16", "float32", plan.length, plan.compiled
    longest, *shorter = plan.lengths
    goals_by_length = {8192: 2.6, 4096: 2.0, 2048: 1.5, 1024: 1.3}

    def encoder_row(number: int, dtype: str, tokens: int, ratio: float | None, memory: float | None) -> Row:
        make = partial(encoder.one_length, encoders, dtype, 1, tokens, compiled)
        return Row(number, make, (Goal(encoder.PEER, ratio, memory),), is_long=tokens > 4096)

    mixed = partial(encoder.mixed_lengths, encoders, bf16, encoder.realistic_lengths(16, length), compiled)
    mixed_goals = (Goal(encoder.PEER, 3.0), Goal(encoder.SORTED, 1.35))
    full = partial(training_step.full_rows, models, length=length, compiled=compiled)
    full_goals = (Goal(training_step.PEER, 2.6, 1 / 6), Goal(training_step.SPARSE, 1.45, 1 / 2))
    cost = partial(encoder.cost_over_lengths, encoders, bf16, lengths=sorted(plan.lengths))
    equal = partial(encoder.one_length, encoders, fp32, 4, length, compiled)
    rows = [
        encoder_row(1, bf16, longest, goals_by_length.get(longest), 1 / 6),
        encoder_row(1, fp32, longest, 2.3 if longest == 8192 else None, 1 / 6),
        *(encoder_row(2, bf16, tokens, goals_by_length.get(tokens), None) for tokens in shorter),
        Row(3, mixed, mixed_goals),
        *(Row(4, partial(full, rows=count), full_goals, is_long=True) for count in plan.rows),
        *(Row(8, partial(cost, part=part), is_long=True) for part in (encoder.LOCAL, encoder.GLOBAL, encoder.WHOLE)),
        Row(9, equal, (Goal(encoder.PEER),), is_long=True),
    ]
    if data is not None:
        tokenizer, corpus = data

        def real(count: int) -> Case:
            batch = training_step.typical_batch([corpus], tokenizer, length, count)
            return training_step.real_documents(models, batch, count, length, compiled=compiled)

        real_goals = (Goal(training_step.PEER, 4.0), Goal(training_step.SPARSE, 2.2), Goal(training_step.SORTED))
        sentence = partial(fill_mask.one_sentence, tokenizer, model, shape, plan.prompts)
        texts = partial(tokenizing.corpus, [corpus], tokenizer, plan.megabytes, torch.get_num_threads())
        rows += [Row(5, partial(real, count), real_goals, is_long=True) for count in plan.rows]
        rows.append(Row(6, sentence, (Goal(fill_mask.PEER, 3.0),), ours=fill_mask.FAST))
        rows.append(Row(7, texts, (Goal(tokenizing.PEER, 5.0), Goal(tokenizing.FAST))))
    return sorted((row for row in rows if row.number in plan.numbers), key=lambda row: row.number)


def run(
    plan: Plan, shape: str, data: RealData | None, model: str | None, out: Path, command: str, console: Console
) -> dict[str, Any]:
    """Measure the rows of a plan, and write the file of results in the folder `out` after each.

    Rows that are already in the file stay there until they are measured again. `command` is the command line to store.
    Row 6 uses random weights if `model` is None.
    """
    start = time.perf_counter()
    disable_progress_bar()
    # These two fields select cases; the others change how each case is measured.
    settings = {name: value for name, value in asdict(plan).items() if name not in ("numbers", "rows")}
    content: dict[str, Any] = {"command": command, **environment(), "settings": {"shape": shape, **settings}}
    before = _earlier_results(out / FILE, content)
    rows = rows_of(plan, shape, data, model)
    skipped = [number for number in plan.numbers if number in _NEED_DATA and data is None]
    if not rows:
        raise UsageError(f"--rows {','.join(map(str, skipped))} need real texts. Give their folder with --data.")
    content["matrix rate"] = {name: matrix_rate(getattr(torch, name)) for name in ("float32", "bfloat16")}
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
    ratios: dict[str, dict[str, float]] = {}
    for peer in (goal.against for goal in goals):
        ratios[peer] = {name: measurement.ratio(name, peer) for name in measurement.rates if name != peer}
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
