"""Encoder forward pass: tokens/s of real tokens, with the same weights and inputs as transformers' ModernBERT.

Sequences of one length without padding, and a batch of realistic (lognormal) lengths in which about half of the padded
batch is padding. The peer reads that batch padded, and also sorted into batches of four, which is its fastest way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer

from llm_jp_modernbert.modeling.flops import forward_flops

from ..measure import OURS, Candidate, Case
from ..models import FIRST_WORD, Models, dtype_name
from ..options import Compiled, Dtype, Shape, whole_numbers

PEER, SORTED = "transformers, sdpa", "transformers, sdpa, sorted into fours"

# Tokens of the warm-up: more than one block of local attention, to compile layers for long inputs.
_WARM_UP_TOKENS = 512


def cases(
    lengths: Annotated[str, typer.Option(help="Comma-separated lengths of the single sequences, in tokens.")] = (
        "1024,8192"
    ),
    batch: Annotated[int, typer.Option(help="Sequences in the batch of realistic lengths; 0 skips it.", min=0)] = 16,
    shape: Shape = "base",
    dtype: Dtype = "bfloat16",
    compiled: Compiled = True,
) -> Iterator[Case]:
    """Measure the encoder's forward pass: tokens/s and extra peak memory, against transformers."""
    models, kind = Models(shape), getattr(torch, dtype)
    for length in whole_numbers("--lengths", lengths):
        yield one_length(models, kind, 1, length, compiled)
    if batch:
        yield mixed_lengths(models, kind, realistic_lengths(batch), compiled)


def realistic_lengths(count: int, longest: int = 1024) -> list[int]:
    """Draw lognormal document lengths with a median of about 300 tokens."""
    lengths = np.random.default_rng(0).lognormal(5.8, 0.5, count)
    return [int(length) for length in np.clip(lengths, 16, longest)]


def one_length(models: Models, dtype: torch.dtype, rows: int, length: int, compiled: bool) -> Case:
    """A batch of `rows` sequences of `length` tokens, without padding."""
    ids = torch.randint(FIRST_WORD, models.config.vocab_size, (rows, length), device=models.device)

    def candidate(model: Any) -> Candidate:
        @torch.inference_mode()
        def run(turn: int) -> float:
            part = ids if turn else ids[:, : max(_WARM_UP_TOKENS, length // 8)]
            model(input_ids=part)
            return float(part.numel())

        return run

    candidates = {PEER: candidate(models.peer(dtype).eval().model)}
    candidates |= {name: candidate(model.eval().model) for name, model in models.candidates(dtype, compiled).items()}
    settings = {**models.settings, "dtype": dtype_name(dtype), "sequences": rows, "tokens": rows * length}
    operations = forward_flops(models.config, [length] * rows, 0) / ids.numel()
    name = f"encoder, {rows} × {length}, {dtype_name(dtype)}"
    return Case(name, "tokens", PEER, candidates, settings, {OURS: operations}, memory=True)


def mixed_lengths(models: Models, dtype: torch.dtype, lengths: Sequence[int], compiled: bool) -> Case:
    """A batch of sequences with the given lengths in tokens, padded to the longest."""
    ascending = sorted(lengths)
    padded = _padded(models, lengths)
    fours = [_padded(models, ascending[start : start + 4]) for start in range(0, len(ascending), 4)]
    tokens = float(sum(lengths))

    def candidate(model: Any, batches: Sequence[dict[str, torch.Tensor]]) -> Candidate:
        @torch.inference_mode()
        def run(turn: int) -> float:
            for batch in batches:
                model(**batch)
            return tokens

        return run

    peer = models.peer(dtype).eval().model
    candidates = {PEER: candidate(peer, [padded]), SORTED: candidate(peer, fours)}
    for name, model in models.candidates(dtype, compiled).items():
        candidates[name] = candidate(model.eval().model, [padded])
    settings = {
        **models.settings,
        "dtype": dtype_name(dtype),
        "sequences": len(lengths),
        "tokens": int(tokens),
        "padding": f"{1 - tokens / padded['input_ids'].numel():.0%}",
    }
    operations = forward_flops(models.config, lengths, 0) / tokens
    name = f"encoder, {len(lengths)} realistic lengths, {dtype_name(dtype)}"
    return Case(name, "tokens", PEER, candidates, settings, {OURS: operations}, memory=True)


def _padded(models: Models, lengths: Sequence[int]) -> dict[str, torch.Tensor]:
    columns = torch.arange(max(lengths), device=models.device)
    mask = (columns < torch.tensor(lengths, device=models.device)[:, None]).long()
    ids = torch.randint(FIRST_WORD, models.config.vocab_size, mask.shape, device=models.device)
    return {"input_ids": ids * mask + models.config.pad_token_id * (1 - mask), "attention_mask": mask}
