"""Tokens per second that the data loader delivers, against those that a model consumes in training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated

import torch
import typer

from ..measure import Candidate, Case
from ..models import Models, batch_stream
from ..options import Shape, Tokenizer


def cases(
    files: Annotated[list[str], typer.Argument(help="Files or folders of texts, or a tokenized corpus.")],
    tokenizer: Tokenizer,
    shape: Shape = "nano",
    length: Annotated[int, typer.Option(help="Tokens per row.", min=4)] = 1024,
    rows: Annotated[int, typer.Option(help="Rows per batch.", min=1)] = 8,
    batches: Annotated[int, typer.Option(help="Batches per turn; use more than a packing block has.", min=1)] = 500,
) -> Iterator[Case]:
    """Measure the loader's tokens/s, against the training tokens/s of a model."""
    streams = [batch_stream(files, tokenizer, length, rows, workers) for workers in (0, 1)]
    iterators = [stream.batches() for stream in streams]
    model = Models(shape, len(streams[0].maker.tokenizer)).ours(torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batch = next(batch_stream(files, tokenizer, length, rows).batches())

    def load(workers: int, turn: int) -> float:
        return float(sum(next(iterators[workers])["info"].tokens for _ in range(batches)))

    def train(turn: int) -> float:
        inputs = {key: batch[key].to(model.device) for key in ("input_ids", "labels", "cu_seqlens")}
        model(**inputs, max_seqlen=batch["max_seqlen"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(batch["info"].tokens)

    peer = f"{shape} in training"
    candidates: dict[str, Candidate] = {
        peer: train,
        "loader in the training process": partial(load, 0),
        "loader with one worker": partial(load, 1),
    }
    yield Case("loader", "tokens", peer, candidates, {"row": length, "rows": rows, "batches": batches})
