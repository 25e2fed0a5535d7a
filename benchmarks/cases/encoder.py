"""Tokens per second of the encoder, against transformers' ModernBERT with the same weights and inputs.

Sequences of one length without padding, and a batch of lengths as they really are (lognormal, about half of the padded
rectangle is padding), which the peer gets padded, and sorted into batches of four, which is its best. Only real tokens
count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer

from llm_jp_modernbert.modeling.flops import forward_flops

from ..measure import COMPILED, OURS, Case, report
from ..models import FIRST_WORD, Models
from ..options import Dtype, Outs, Repeats, Shape, beside, whole_numbers

PEER, SORTED = "transformers, sdpa", "transformers, sdpa, sorted into fours"

# Tokens that are enough to warm up: more than one block of local attention, for which layers would be compiled again.
_SHORT = 512


def benchmark(
    lengths: Annotated[str, typer.Option(help="Tokens of the single sequences, parted by commas.")] = "1024,8192",
    batch: Annotated[int, typer.Option(help="Sequences of the batch of real lengths; 0 for none.", min=0)] = 16,
    shape: Shape = "base",
    dtype: Dtype = "bfloat16",
    compiled: Annotated[bool, typer.Option(help="Whether to time compiled layers as well.")] = True,
    repeats: Repeats = 5,
    out: Outs = None,
) -> None:
    """Encoder forward: tokens/s and extra peak memory, against transformers."""
    models, kind = Models(shape), getattr(torch, dtype)
    for length in whole_numbers("--lengths", lengths):
        report(of_one_length(models, kind, 1, length, compiled), repeats, beside(out, str(length)))
    if batch:
        report(of_lengths(models, kind, realistic_lengths(batch), compiled), repeats, beside(out, "lengths"))


def realistic_lengths(count: int, longest: int = 1024) -> list[int]:
    """Lengths of documents: lognormal, a median of about 300 tokens, so that half of a padded batch is padding."""
    drawn = np.random.default_rng(0).lognormal(5.8, 0.5, count)
    return [int(length) for length in np.clip(drawn, 16, longest)]


def of_one_length(models: Models, dtype: torch.dtype, rows: int, length: int, compiled: bool) -> Case:
    """Sequences of one length, without padding.

    Args:
        models: to be compared.
        dtype: of weights and activations.
        rows: sequences.
        length: tokens of each.
        compiled: whether this library's compiled layers are a candidate.
    """
    ids = torch.randint(FIRST_WORD, models.config.vocab_size, (rows, length), device=models.device)

    def run(model: Any) -> Callable[[int], float]:
        def read(turn: int) -> float:
            part = ids if turn else ids[:, : max(_SHORT, length // 8)]
            with torch.inference_mode():
                model(input_ids=part)
            return float(part.numel())

        return read

    candidates = {PEER: run(models.peer(dtype).eval().model)}
    candidates |= {name: run(model) for name, model in _ours(models, dtype, compiled).items()}
    settings = {**models.settings, "dtype": _name(dtype), "sequences": rows, "tokens": rows * length}
    operations = forward_flops(models.config, [length] * rows, 0) / ids.numel()
    name = f"encoder, {rows} × {length}, {_name(dtype)}"
    return Case(name, "tokens", PEER, candidates, settings, {OURS: operations}, memory=True)


def of_lengths(models: Models, dtype: torch.dtype, lengths: Sequence[int], compiled: bool) -> Case:
    """A batch of sequences of different lengths, padded to the longest.

    Args:
        models: to be compared.
        dtype: of weights and activations.
        lengths: tokens of each sequence.
        compiled: whether this library's compiled layers are a candidate.
    """
    order = np.argsort(lengths).tolist()
    whole = _padded(models, lengths)
    parts = [
        _padded(models, [lengths[index] for index in order[start : start + 4]]) for start in range(0, len(order), 4)
    ]
    tokens = float(sum(lengths))

    def run(model: Any, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Callable[[int], float]:
        def read(turn: int) -> float:
            with torch.inference_mode():
                for ids, mask in batches:
                    model(input_ids=ids, attention_mask=mask)
            return tokens

        return read

    peer = models.peer(dtype).eval().model
    candidates = {PEER: run(peer, [whole]), SORTED: run(peer, parts)}
    candidates |= {name: run(model, [whole]) for name, model in _ours(models, dtype, compiled).items()}
    settings = {
        **models.settings,
        "dtype": _name(dtype),
        "sequences": len(lengths),
        "tokens": int(tokens),
        "padding": f"{1 - tokens / whole[0].numel():.0%}",
    }
    operations = forward_flops(models.config, lengths, 0) / tokens
    name = f"encoder, {len(lengths)} realistic lengths, {_name(dtype)}"
    return Case(name, "tokens", PEER, candidates, settings, {OURS: operations}, memory=True)


def _ours(models: Models, dtype: torch.dtype, compiled: bool) -> dict[str, Any]:
    found = {OURS: models.ours(dtype).eval().model}
    return found | ({COMPILED: models.compiled(dtype).eval().model} if compiled else {})


def _padded(models: Models, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    columns = torch.arange(max(lengths), device=models.device)
    mask = (columns < torch.tensor(lengths, device=models.device)[:, None]).long()
    ids = torch.randint(FIRST_WORD, models.config.vocab_size, mask.shape, device=models.device)
    return ids * mask + models.config.pad_token_id * (1 - mask), mask


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
