"""Training and inference on one GPU, measured unattended in nine minutes.

The parts are a profile of the training step, attention kernels, the vocabulary head, training against transformers at
its best, the largest batch, and inference. Each has a time budget; whatever does not run is listed with its reason.
Parts run in another process: a crash, a GPU error or a hang ends only the current part. Documents are random tokens
with realistic (lognormal) lengths. The share of the peak is the exact number of operations (`modeling/flops.py`) per
second over the data sheet's peak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.batch_size import largest

from ..gpu_plot import plot
from ..gpu_process import Worker
from ..gpu_run import Row, Run, sizes_of
from ..measure import OURS, Case, environment, measure, write_json
from ..models import Compiled, Models, Shape
from .encoder import mixed_lengths, one_length, realistic_lengths
from .gpu_kernels import attention, head, profile, training_step
from .training_step import random_documents, training_case


def gpu(
    shape: Shape = "base",
    device: Annotated[Literal["cuda", "cpu"], typer.Option(help="cpu rehearses all parts with tiny sizes.")] = "cuda",
    minutes: Annotated[float, typer.Option(help="Time for all parts.", min=0.1)] = 9.0,
    parts: Annotated[str | None, typer.Option(help="Comma-separated parts; by default all.")] = None,
    compiled: Compiled = True,
    out: Annotated[Path, typer.Option(help="Folder for gpu.json and gpu.png.", file_okay=False)] = Path(
        "build/benchmarks"
    ),
) -> None:
    """Measure a GPU unattended: profile, attention, vocabulary head, training, largest batch, inference.

    Results are written after each part. The parts are named profile, attention, head, training, batch and inference.

    Examples:

    * `python -m benchmarks gpu --out benchmarks/results`

    * `python -m benchmarks gpu --device cpu --shape nano`
    """
    names = list(PARTS) if parts is None else [name.strip() for name in parts.split(",")]
    if not names or not set(names) <= set(PARTS):
        raise UsageError(f"--parts {parts}: choose from {', '.join(PARTS)}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("torch finds no CUDA GPU. Rehearse with --device cpu --shape nano.")
    console = Console()
    settings = {"shape": shape, "device": device, "minutes": minutes, "compiled": compiled}
    content: dict[str, Any] = {**environment(), "settings": {**settings, **asdict(sizes_of(device))}, "parts": {}}
    end = time.perf_counter() + 60 * minutes
    with Worker(shape, device, compiled) as worker:
        for index, name in enumerate(names):
            function, share = PARTS[name]
            begun = time.perf_counter()
            # Time that earlier parts have not used is divided among the others.
            seconds = (end - begun) * share / sum(PARTS[later][1] for later in names[index:])
            rows: list[Row] = []
            part: dict[str, Any] = {"rows": rows}
            content["parts"][name] = part
            for row in worker.rows(function, begun + seconds, min(end, begun + seconds + _GRACE)):
                rows.append(row)
                console.print(f"{name}: {_text(row)}", markup=False, highlight=False)
                write_json(out / "gpu.json", content)
            part["seconds"] = round(time.perf_counter() - begun, 1)
            console.print(f"[bold]{name}[/]: {part['seconds']} seconds")
            write_json(out / "gpu.json", content)
            plot(content, out / "gpu.png")
    console.print(f"{out / 'gpu.json'}, {out / 'gpu.png'}")


def _text(row: Row) -> str:
    """A row as one line, numbers with four digits."""
    shown = {key: f"{value:,.4g}" if isinstance(value, float) else value for key, value in row.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items() if not isinstance(value, dict))


def training(run: Run) -> Iterator[Row]:
    """Training steps on packed documents, against transformers at its best."""
    models, sizes = run.models, run.sizes
    cases = [
        partial(packed_training, models, longest, sizes.tokens, sizes.peer_tokens, run.compiled)
        for longest in sizes.lengths
    ]
    # First alone: compiling transformers' model can take longer than this part has time.
    for case in cases:
        yield from _measured(run, partial(_alone, case))
    for case in cases:
        yield from _measured(run, case)


def _alone(make: Callable[[], Case]) -> Case:
    """A case without the peer's candidates."""
    case = make()
    ours = {name: candidate for name, candidate in case.candidates.items() if name.startswith(OURS)}
    return replace(case, name=f"{case.name}, alone", peer=OURS, candidates=ours)


def packed_training(models: Models, longest: int, tokens: int, peer_tokens: int, compiled: bool) -> Case:
    """Training steps on `tokens` tokens in one packed row, against padded batches of at most `peer_tokens` tokens."""
    batch = random_documents(models.config.vocab_size, tokens, longest, seed=0)
    settings = {"tokens": tokens, "documents": len(batch.ids)}
    return training_case(
        f"packed, documents up to {longest} tokens",
        models,
        batch,
        settings,
        compiled,
        documents_at_once=max(1, peer_tokens // longest),
        is_sorted=True,
        variants=models.peer_variants("float32") if compiled else {},
    )


def _measured(run: Run, make: Callable[[], Case]) -> Iterator[Row]:
    """One row per candidate of a case."""
    if run.out_of_time:
        yield {"skipped": "a case", "reason": "out of time"}
        return
    try:
        case = make()
        measurement = measure(case, run.sizes.turns)
    except torch.OutOfMemoryError:
        yield {"skipped": "a case", "reason": "out of memory"}
        return
    for name in measurement.rates:
        rate = measurement.median(name)
        yield {
            "case": case.name,
            "candidate": name,
            "tokens/s": rate,
            "ratio": measurement.ratio(name),
            "MFU": run.utilization(rate * case.operations[OURS]),
            "extra peak MB": measurement.extra_peak_megabytes.get(name),
        }


def largest_batch(run: Run) -> Iterator[Row]:
    """The most tokens of a packed batch that a training step holds in memory, and its speed."""
    for longest in run.sizes.lengths:
        if run.out_of_time:
            yield {"documents up to": longest, "skipped": "out of time"}
            continue
        run.free()

        def step_of(units: int, longest: int = longest) -> Callable[[], None]:
            vocabulary, tokens = run.models.config.vocab_size, units * run.sizes.batch_unit
            return training_step(run.models, run.compiled, random_documents(vocabulary, tokens, longest, seed=0))

        def fits(units: int) -> bool:
            try:
                step_of(units)()
                run.synchronize()
            except torch.OutOfMemoryError:
                return False
            finally:
                run.free()
            return not run.out_of_time

        units = largest(fits, run.sizes.most_units)
        row: Row = {"documents up to": longest, "tokens": units * run.sizes.batch_unit}
        if run.out_of_time:
            row["incomplete"] = "out of time; more tokens may fit"
        if units:
            row["tokens/s"] = row["tokens"] / run.seconds(step_of(units), 3)
            row["peak MB"] = run.peak_megabytes()
        yield row


def inference(run: Run) -> Iterator[Row]:
    """The encoder on single sequences and full batches, and on a batch of realistic lengths."""
    models, longest, rows = run.models, run.sizes.lengths[-1], run.sizes.rows
    yield from _measured(run, lambda: one_length(models, "bfloat16", 1, longest, run.compiled))
    yield from _measured(run, lambda: one_length(models, "bfloat16", rows, longest, run.compiled))
    lengths = realistic_lengths(run.sizes.texts)
    yield from _measured(run, lambda: mixed_lengths(models, "bfloat16", lengths, run.compiled))


# Seconds after its time at which a part is ended: the start of a process and a long case.
_GRACE = 60.0

# The function of each part, and its share of the time in seconds.
PARTS: dict[str, tuple[Callable[[Run], Iterator[Row]], int]] = {
    "profile": (profile, 110),
    "attention": (attention, 60),
    "head": (head, 40),
    "training": (training, 180),
    "batch": (largest_batch, 50),
    "inference": (inference, 80),
}
