"""Training and inference on a GPU against transformers with padding, with the share of the GPU's peak.

The share of the peak is the exact number of operations (`modeling/flops.py`) per second over the data sheet's peak.
Documents are random tokens with realistic (lognormal) lengths, packed for this library and padded for the peer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
import typer

from llm_jp_modernbert.core.errors import UsageError

from ..measure import Case
from ..models import FIRST_WORD, Compiled, Models, Shape
from .encoder import one_length
from .training_step import MASKED, Batch, training_case


def cases(
    shape: Shape = "base",
    tokens: Annotated[int, typer.Option(help="Tokens of this library's packed training batch.", min=1)] = 65_536,
    peer_tokens: Annotated[
        int, typer.Option(help="Tokens of the peer's padded batches, including padding.", min=1)
    ] = 16_384,
    compiled: Compiled = True,
) -> Iterator[Case]:
    """Measure training and inference on a GPU, with the share of its peak, against transformers with padding."""
    if not torch.cuda.is_available():
        raise UsageError("torch finds no CUDA GPU.")
    models = Models(shape)
    for longest in (1024, 8192):
        yield packed_training(models, longest, tokens, peer_tokens, compiled)
    for rows in (1, 16):
        yield one_length(models, "bfloat16", rows, 8192, compiled)


def random_documents(vocabulary: int, tokens: int, longest: int, seed: int) -> Batch:
    """Draw documents of random tokens, 30 % of which are predicted; their median length is a third of the longest."""
    lengths: list[int] = []
    drawn = np.random.default_rng(seed)
    while (missing := tokens - sum(lengths)) > 0:
        lengths.append(min(missing, int(np.clip(drawn.lognormal(np.log(longest / 3), 0.8), 16, longest))))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(FIRST_WORD, vocabulary, (tokens,), generator=generator)
    labels = ids.where(torch.rand(tokens, generator=generator) < MASKED, -100)
    return Batch(ids.split(lengths), labels.split(lengths))


def packed_training(models: Models, longest: int, tokens: int, peer_tokens: int, compiled: bool) -> Case:
    """Training steps on `tokens` tokens in one packed row, against padded batches of at most `peer_tokens` tokens."""
    batch = random_documents(models.config.vocab_size, tokens, longest, seed=0)
    settings = {"tokens": tokens, "documents": len(batch.ids)}
    name = f"packed, documents up to {longest} tokens"
    at_once = max(1, peer_tokens // longest)
    return training_case(name, models, batch, settings, compiled, documents_at_once=at_once)
