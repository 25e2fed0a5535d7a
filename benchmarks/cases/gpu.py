"""On a GPU: training and inference of packed documents against transformers with padding, and how busy the GPU is.

Utilisation is the exact number of operations (`modeling/flops.py`) over the time and the GPU's peak by its data sheet.
Documents are of random tokens, with lengths as real ones have them (lognormal); both sides get the same ones, packed
into one row here and padded there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch._dynamo.utils import counters

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.versions import library_versions
from llm_jp_modernbert.modeling.flops import forward_flops, peak_flops

from ..machine import machine, matrix_rate
from ..measure import COMPILED, OURS, Case, measure, write_json
from ..models import FIRST_WORD, VOCABULARY, Models
from ..options import Out, Repeats, Shape
from .training_step import MASKED, PEER, SPARSE, Batch, Steps

_DTYPE = torch.bfloat16


def document_lengths(tokens: int, longest: int, seed: int) -> list[int]:
    """Lengths of documents that have so many tokens together: lognormal, a third of the longest in the median."""
    random = np.random.default_rng(seed)
    lengths: list[int] = []
    while (left := tokens - sum(lengths)) > 0:
        lengths.append(min(left, int(np.clip(random.lognormal(np.log(longest / 3), 0.8), 16, longest))))
    return lengths


def documents(tokens: int, longest: int, seed: int) -> Batch:
    """Documents of random tokens, so many together, of which 30 % are predicted."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(FIRST_WORD, VOCABULARY, (tokens,), generator=random)
    labels = ids.where(torch.rand(tokens, generator=random) < MASKED, -100)
    lengths = document_lengths(tokens, longest, seed)
    return Batch(ids.split(lengths), labels.split(lengths))


def training(models: Models, longest: int, tokens: int, peer_cells: int) -> Case:
    """Training steps on documents, packed into one row here, and padded there in batches of at most so many cells."""
    batch = documents(tokens, longest, seed=0)
    run = Steps(models, batch, bf16=True, rectangle=max(1, peer_cells // longest))
    candidates = {PEER: run.peer(sparse=False), SPARSE: run.peer(sparse=True), **run.ours(compiled=True)}
    name = f"training step, packed, documents up to {longest} tokens"
    return run.case(name, candidates, {"tokens": tokens, "documents": len(batch.ids)})


def reading(models: Models, rows: int, length: int) -> Case:
    """Inference of the encoder on full rows."""
    ids = torch.randint(FIRST_WORD, VOCABULARY, (rows, length), device=models.device)
    made = {PEER: models.peer(_DTYPE), OURS: models.ours(_DTYPE), COMPILED: models.compiled(_DTYPE)}

    def reader(model: Any) -> Callable[[int], float]:
        model.eval()

        @torch.inference_mode()
        def run(turn: int) -> float:
            model.model(input_ids=ids)
            return rows * length

        return run

    operations = forward_flops(models.config, [length] * rows, 0) / (rows * length)
    candidates = {name: reader(model) for name, model in made.items()}
    settings = {**models.settings, "dtype": "bfloat16", "rows": rows, "length": length}
    return Case(f"encoder, {rows} × {length}", "tokens", PEER, candidates, settings, {OURS: operations}, memory=True)


def largest_budget(step: Callable[[int], Any], first: int = 16_384, last: int = 1_048_576) -> int:
    """The largest number of tokens, by doubling, with which a step fits the memory; 0 where the first does not."""
    fits, tokens = 0, first
    while tokens <= last:
        try:
            step(tokens)
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            torch.cuda.empty_cache()
        fits, tokens = tokens, 2 * tokens
    return fits


def budgets(models: Models, longest: int) -> dict[str, int]:
    """The largest budgets of a training step, of this library and of the peer."""

    def step(name: str, tokens: int) -> None:
        run = Steps(models, documents(tokens, longest, seed=0), bf16=True, rectangle=max(1, tokens // longest))
        candidates = {
            OURS: run.ours(compiled=False)[OURS],
            PEER: run.peer(sparse=False),
            SPARSE: run.peer(sparse=True),
        }
        candidates[name](1)

    return {name: largest_budget(partial(step, name)) for name in (OURS, PEER, SPARSE)}


def recompilations(models: Models, longest: int) -> int:
    """Graphs that are compiled for further lengths and numbers of documents after the first two batches."""
    # Graphs of the cases before would serve here, too.
    torch._dynamo.reset()
    counts = []
    for seed, tokens in enumerate((4000, 7000, 16_000, 9_123, 12_345, 5_555)):
        Steps(models, documents(tokens, longest, seed), bf16=True).ours(compiled=True)[COMPILED](1)
        counts.append(counters["stats"]["unique_graphs"])
    return counts[-1] - counts[1]


def benchmark(
    shape: Shape = "base",
    tokens: Annotated[int, typer.Option(help="Tokens of a training batch here.", min=1)] = 65_536,
    peer_cells: Annotated[
        int, typer.Option(help="Cells of the peer's padded batches, which have to fit.", min=1)
    ] = 16_384,
    turns: Repeats = 5,
    with_budgets: Annotated[bool, typer.Option("--budgets", help="Look for the largest batches, too.")] = False,
    out: Out = None,
) -> None:
    """Training and inference on a GPU, with the share of its peak, against transformers with padding."""
    if not torch.cuda.is_available():
        raise UsageError("there is no CUDA GPU here that torch sees.")
    models, began = Models(shape), time.perf_counter()
    about = machine()
    peak = peak_flops(about["name"], "bfloat16")
    rate = matrix_rate(_DTYPE, "cuda")
    sheet = f"{(peak or 0) / 1e12:.0f}"
    print(f"{about['name']}: {rate / 1e12:.0f} TFLOP/s in a matrix product, data sheet {sheet}", flush=True)
    content: dict[str, Any] = {"machine": about, "versions": library_versions(("torch", "transformers", "triton"))}
    content |= {"matrix TFLOP/s": rate / 1e12, "cases": []}
    cases: list[Callable[[], Case]] = [
        lambda: training(models, 1024, tokens, peer_cells),
        lambda: training(models, 8192, tokens, peer_cells),
        lambda: reading(models, 1, 8192),
        lambda: reading(models, 16, 8192),
    ]
    for make in cases:
        measured = measure(make(), turns)
        line: dict[str, Any] = {"name": measured.name, "settings": measured.settings, "candidates": {}}
        for name in measured.rates:
            busy = measured.median(name) * measured.operations[OURS]
            found = {
                "tokens/s": round(measured.median(name)),
                "ratio": round(measured.ratio(name), 3),
                "TFLOP/s": round(busy / 1e12, 1),
                "share of the peak": round(busy / peak, 3) if peak else None,
                "extra peak MB": measured.extra_peak_megabytes.get(name),
                "rates": measured.rates[name],
            }
            line["candidates"][name] = found
            shown = ", ".join(f"{key} {value:,}" for key, value in found.items() if key != "rates" and value)
            print(f"[{time.perf_counter() - began:.0f} s] {measured.name}, {name}: {shown}", flush=True)
        content["cases"].append(line)
        _write(out, content)
        torch.cuda.empty_cache()
    content["graphs compiled for further lengths"] = recompilations(models, 1024)
    print("graphs compiled for further lengths:", content["graphs compiled for further lengths"], flush=True)
    if with_budgets:
        content["largest batches in tokens"] = budgets(models, 1024)
        print("largest batches in tokens:", content["largest batches in tokens"], flush=True)
    _write(out, content)


def _write(out: Path | None, content: dict[str, Any]) -> None:
    """After every case: what was measured stays where a lent machine is taken back."""
    if out is not None:
        write_json(out, content)
