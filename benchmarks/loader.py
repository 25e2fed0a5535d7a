"""Tokens per second that the loader delivers, against those that a model in training takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.training.shapes import model_config

from .measure import interleaved, report
from .texts import stream_of


def benchmark(
    files: Annotated[list[str], typer.Argument(help="Texts, or a tokenised corpus.")],
    tokenizer: Annotated[str, typer.Option()],
    shape: Annotated[str, typer.Option(help="nano, small or base.")] = "nano",
    length: Annotated[int, typer.Option(help="Tokens of a row.")] = 1024,
    rows: Annotated[int, typer.Option(help="Rows of a batch.")] = 8,
    batches: Annotated[int, typer.Option(help="Batches per turn: more than a block holds.")] = 500,
    repeats: Annotated[int, typer.Option()] = 5,
    out: Annotated[Path | None, typer.Option(help="File for the JSON.")] = None,
) -> None:
    """Loader tokens per second, against a model's training tokens per second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stream = stream_of(files, tokenizer, length, rows)
    model = LlmJpModernBertForMaskedLM(model_config(shape, len(stream.maker.tokenizer))).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    running = {0: stream.batches(), 1: stream_of(files, tokenizer, length, rows, workers=1).batches()}

    def load(workers: int) -> float:
        return sum(next(running[workers])["info"].tokens for _ in range(batches))

    fixed = next(stream_of(files, tokenizer, length, rows).batches())

    def train(turn: int) -> float:
        moved = {name: fixed[name].to(device) for name in ("input_ids", "labels", "cu_seqlens")}
        model(**moved, max_seqlen=fixed["max_seqlen"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(fixed["info"].tokens)

    name = f"{shape} in training"
    candidates = {
        name: train,
        "loader in the training process": lambda turn: load(0),
        "loader with one worker": lambda turn: load(1),
    }
    rates = interleaved(candidates, repeats)
    report("loader, tokens/s", {"row": length, "rows": rows, "batches": batches}, rates, name, out)
