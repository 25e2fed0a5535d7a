"""On a GPU: training and inference of packed documents against transformers with padding, and how busy the GPU is.

Utilisation is the exact number of operations (`modeling/flops.py`) over the time and the GPU's peak by its data sheet.
Documents are of random tokens, with lengths as real ones have them (lognormal); both sides get the same ones, packed
into one row here, and padded there, in batches whose rectangle has as many tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch._dynamo.utils import counters

from llm_jp_modernbert.errors import UsageError
from llm_jp_modernbert.modeling.flops import forward_flops, peak_flops, training_flops
from llm_jp_modernbert.versions import library_versions

from .machine import machine, matrix_rate
from .measure import COMPILED, OURS, Case, measure, write_json
from .models import VOCABULARY, Models

PEER, SPARSE = "transformers, sdpa, padded", "transformers, sdpa, padded, sparse_prediction"

_PAD, _IGNORED, _MASKED = 4, -100, 0.3
_DTYPE = torch.bfloat16


def document_lengths(tokens: int, longest: int, seed: int) -> list[int]:
    """Lengths of documents that have so many tokens together: lognormal, a third of the longest in the median."""
    random = np.random.default_rng(seed)
    lengths: list[int] = []
    while (left := tokens - sum(lengths)) > 0:
        lengths.append(min(left, int(np.clip(random.lognormal(np.log(longest / 3), 0.8), 16, longest))))
    return lengths


def packed(lengths: Sequence[int], seed: int) -> dict[str, Any]:
    """A batch in one row, of which 30 % of the tokens are predicted."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(8, VOCABULARY, (1, sum(lengths)), generator=random)
    labels = ids.where(torch.rand(ids.shape, generator=random) < _MASKED, _IGNORED)
    boundaries = torch.tensor([0, *lengths]).cumsum(0).int()
    return {
        "input_ids": ids.cuda(),
        "labels": labels.cuda(),
        "cu_seqlens": boundaries.cuda(),
        "max_seqlen": max(lengths),
    }


def padded(batch: dict[str, Any], lengths: Sequence[int], budget: int) -> list[dict[str, torch.Tensor]]:
    """The same documents in padded batches of at most so many cells, in the order in which they come."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids, labels = (batch[name][0].split(list(lengths)) for name in ("input_ids", "labels"))
    rows = max(1, budget // max(lengths))
    batches = []
    for first in range(0, len(lengths), rows):
        some = slice(first, first + rows)
        masks = [torch.ones_like(one) for one in ids[some]]
        batches.append(
            {
                "input_ids": pad(list(ids[some]), batch_first=True, padding_value=_PAD),
                "attention_mask": pad(masks, batch_first=True),
                "labels": pad(list(labels[some]), batch_first=True, padding_value=_IGNORED),
            }
        )
    return batches


def trained(model: Any) -> Callable[[Sequence[dict[str, Any]]], Any]:
    """A step of forward, backward and AdamW under autocast to bf16."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(batches: Sequence[dict[str, Any]]) -> None:
        for batch in batches:
            with torch.autocast("cuda", dtype=_DTYPE):
                loss = model(**batch).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def training(models: Models, longest: int, tokens: int, peer_cells: int, turns: int) -> Case:
    """Training steps on documents that differ from turn to turn."""
    drawn = [document_lengths(tokens, longest, seed) for seed in range(turns + 1)]
    batches = [packed(lengths, seed) for seed, lengths in enumerate(drawn)]
    rectangles = [padded(batch, lengths, peer_cells) for batch, lengths in zip(batches, drawn, strict=True)]
    ours, compiled = trained(models.ours(torch.float32)), trained(models.compiled(torch.float32))
    peer = models.peer(torch.float32)
    theirs = trained(peer)

    def of_peer(sparse: bool) -> Callable[[int], float]:
        def run(turn: int) -> float:
            peer.config.sparse_prediction = peer.sparse_prediction = sparse
            theirs(rectangles[turn])
            return tokens

        return run

    def own(step: Callable[..., Any]) -> Callable[[int], float]:
        def run(turn: int) -> float:
            step([batches[turn]])
            return tokens

        return run

    operations = np.mean([training_flops(models.config, lengths, round(_MASKED * tokens)) for lengths in drawn])
    cells = sum(part["input_ids"].numel() for part in rectangles[-1])
    settings = {**models.settings, "longest": longest, "tokens": tokens, "padding": f"{1 - tokens / cells:.0%}"}
    candidates = {PEER: of_peer(False), SPARSE: of_peer(True), OURS: own(ours), COMPILED: own(compiled)}
    each = dict.fromkeys(candidates, float(operations) / tokens)
    return Case(f"training step, packed, {longest} tokens", "tokens", PEER, candidates, settings, each, memory=True)


def reading(models: Models, rows: int, length: int) -> Case:
    """Inference of the encoder on full rows."""
    ids = torch.randint(8, VOCABULARY, (rows, length), device="cuda")
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
    each = dict.fromkeys(candidates, operations)
    settings = {**models.settings, "dtype": "bfloat16", "rows": rows, "length": length}
    return Case(f"encoder, {rows} × {length}", "tokens", PEER, candidates, settings, each, memory=True)


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
    ours = trained(models.ours(torch.float32))
    peer = models.peer(torch.float32)
    theirs = trained(peer)

    def of(tokens: int) -> tuple[list[int], dict[str, Any]]:
        lengths = document_lengths(tokens, longest, 0)
        return lengths, packed(lengths, 0)

    def padded_step(tokens: int) -> None:
        lengths, batch = of(tokens)
        theirs(padded(batch, lengths, tokens)[:1])

    found = {OURS: largest_budget(lambda tokens: ours([of(tokens)[1]]))}
    for name, sparse in ((PEER, False), (SPARSE, True)):
        peer.config.sparse_prediction = peer.sparse_prediction = sparse
        found[name] = largest_budget(padded_step)
    return found


def recompilations(models: Models, longest: int) -> int:
    """Graphs that are compiled for further lengths and numbers of documents after the first two batches."""
    step, counts = trained(models.compiled(torch.float32)), []
    for seed, tokens in enumerate((4000, 7000, 16_000, 9_123, 12_345, 5_555)):
        step([packed(document_lengths(tokens, longest, seed), seed)])
        counts.append(counters["stats"]["unique_graphs"])
    return counts[-1] - counts[1]


def benchmark(
    shape: Annotated[str, typer.Option(help="nano, small or base.")] = "base",
    tokens: Annotated[int, typer.Option(help="Tokens of a training batch here.")] = 65_536,
    peer_cells: Annotated[int, typer.Option(help="Cells of the peer's padded batches, which have to fit.")] = 16_384,
    turns: Annotated[int, typer.Option()] = 5,
    with_budgets: Annotated[bool, typer.Option("--budgets", help="Look for the largest batches, too.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the JSON.")] = None,
) -> None:
    """Training and inference on a GPU, with the share of its peak, against transformers with padding."""
    if not torch.cuda.is_available():
        raise UsageError("there is no CUDA GPU here that torch sees.")
    models, began = Models(shape), time.perf_counter()
    about = machine()
    peak = peak_flops(about["name"], "bfloat16")
    rate = matrix_rate(_DTYPE, "cuda")
    print(f"{about['name']}: {rate / 1e12:.0f} TFLOP/s in a matrix product, data sheet {(peak or 0) / 1e12:.0f}")
    content: dict[str, Any] = {"machine": about, "versions": library_versions(("torch", "transformers", "triton"))}
    content |= {"matrix TFLOP/s": rate / 1e12, "cases": []}
    cases: list[Callable[[], Case]] = [
        lambda: training(models, 1024, tokens, peer_cells, turns),
        lambda: training(models, 8192, tokens, peer_cells, turns),
        lambda: reading(models, 1, 8192),
        lambda: reading(models, 16, 8192),
    ]
    for make in cases:
        measured = measure(make(), turns)
        line: dict[str, Any] = {"name": measured.name, "settings": measured.settings, "candidates": {}}
        for name in measured.rates:
            busy = measured.median(name) * measured.operations[name]
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
        torch.cuda.empty_cache()
    content["graphs compiled for further lengths"] = recompilations(models, 1024)
    print("graphs compiled for further lengths:", content["graphs compiled for further lengths"], flush=True)
    if with_budgets:
        content["largest batches in tokens"] = budgets(models, 1024)
        print("largest batches in tokens:", content["largest batches in tokens"], flush=True)
    if out is not None:
        write_json(out, content)
