"""Tokens per second that the loader delivers, against those that a model in training takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
import typer

from ..measure import Case, report
from ..models import Models
from ..options import Out, Repeats, Shape
from ..texts import stream_of


def benchmark(
    files: Annotated[list[str], typer.Argument(help="Texts, or a tokenised corpus.")],
    tokenizer: Annotated[str, typer.Option()],
    shape: Shape = "nano",
    length: Annotated[int, typer.Option(help="Tokens of a row.", min=4)] = 1024,
    rows: Annotated[int, typer.Option(help="Rows of a batch.", min=1)] = 8,
    batches: Annotated[int, typer.Option(help="Batches per turn: more than a block holds.", min=1)] = 500,
    repeats: Repeats = 5,
    out: Out = None,
) -> None:
    """Loader tokens per second, against a model's training tokens per second."""
    stream = stream_of(files, tokenizer, length, rows)
    model = Models(shape, len(stream.maker.tokenizer)).ours(torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    running = {0: stream.batches(), 1: stream_of(files, tokenizer, length, rows, workers=1).batches()}

    def load(workers: int) -> float:
        return sum(next(running[workers])["info"].tokens for _ in range(batches))

    fixed = next(stream_of(files, tokenizer, length, rows).batches())

    def train(turn: int) -> float:
        moved = {name: fixed[name].to(model.device) for name in ("input_ids", "labels", "cu_seqlens")}
        model(**moved, max_seqlen=fixed["max_seqlen"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(fixed["info"].tokens)

    name = f"{shape} in training"
    candidates: dict[str, Callable[[int], float]] = {
        name: train,
        "loader in the training process": lambda turn: load(0),
        "loader with one worker": lambda turn: load(1),
    }
    settings = {"row": length, "rows": rows, "batches": batches}
    report(Case("loader", "tokens", name, candidates, settings), repeats, out)
