"""Logits of masked language models where they are wanted, of many texts at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llm_jp_modernbert.core.errors import UsageError

from .loading import OUR_MODEL_TYPES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def masked_logits(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Logits at some positions of token rows, without gradients.

    This package's models read one packed row, without padding, and run their head at the positions alone; others
    read a padded batch.

    Args:
        model: a masked language model in evaluation mode.
        rows: token ids with the special tokens, a text each.
        positions: for each row the places that are asked for, ascending.

    Returns:
        For each row, float32 `(len(positions), vocabulary)` on the model's device.

    Raises:
        UsageError: a logit is not a number.
    """
    import torch

    found = _logits(model, rows, positions)
    # Nothing is greater than what is no number, so that a broken model would rank everything first.
    if found and bool(torch.stack([torch.isnan(logits).any() for logits in found]).any()):
        raise UsageError(f"{model.name_or_path}: the model gives logits that are not numbers. Try --dtype float32.")
    return found


def _logits(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    import torch

    counts = [len(places) for places in positions]
    with torch.inference_mode():
        if model.config.model_type in OUR_MODEL_TYPES:
            lengths = [len(row) for row in rows]
            starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
            packed = torch.tensor([[token for row in rows for token in row]], device=model.device)
            wanted = torch.zeros_like(packed, dtype=torch.bool)
            wanted[
                0, [start + place for start, places in zip(starts, positions, strict=False) for place in places]
            ] = True
            ends = torch.tensor(starts, device=model.device, dtype=torch.int32)
            logits = model(input_ids=packed, cu_seqlens=ends, max_seqlen=max(lengths), logits_positions=wanted).logits
            return list(logits.float().split(counts))
        width = max(len(row) for row in rows)
        pad = getattr(model.config, "pad_token_id", None) or 0
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=model.device)
        real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
        logits = model(input_ids=ids, attention_mask=real).logits
        return [row[list(places)].float() for row, places in zip(logits, positions, strict=True)]


def batches(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Consecutive indices, as many at a time as have `limit` tokens together; one at least."""
    batch: list[int] = []
    tokens = 0
    for index, length in enumerate(lengths):
        if batch and tokens + length > limit:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += length
    if batch:
        yield batch
