"""Logits of masked language models at selected positions of many texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from llm_jp_modernbert.core.errors import UsageError

from .loading import OUR_MODEL_TYPES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def masked_logits(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Computes logits at selected positions of token sequences, without gradients.

    This package's models receive one packed row without padding and run their head at the selected positions only;
    other models receive a padded batch.

    Args:
        model: a masked language model in evaluation mode.
        rows: token ids of each text, with special tokens.
        positions: for each row the selected positions in ascending order.

    Returns:
        For each row float32 `(len(positions), vocabulary)` on the model's device.

    Raises:
        UsageError: a logit is NaN.
    """
    import torch

    with torch.inference_mode():
        compute = _packed if model.config.model_type in OUR_MODEL_TYPES else _padded
        logits = compute(model, rows, positions)
    # topk treats NaN as the largest value.
    if logits and bool(torch.stack([torch.isnan(part).any() for part in logits]).any()):
        raise UsageError(f"{model.name_or_path}: the model gives NaN logits. Try --dtype float32.")
    return logits


def _packed(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    import torch

    lengths = [len(row) for row in rows]
    starts = [0, *accumulate(lengths)]
    ids = torch.tensor([[token for row in rows for token in row]], device=model.device)
    selected = torch.zeros_like(ids, dtype=torch.bool)
    selected[
        0, [start + position for start, places in zip(starts, positions, strict=False) for position in places]
    ] = True
    cu_seqlens = torch.tensor(starts, device=model.device, dtype=torch.int32)
    logits = model(input_ids=ids, cu_seqlens=cu_seqlens, max_seqlen=max(lengths), logits_positions=selected).logits
    return list(logits.float().split([len(places) for places in positions]))


def _padded(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    import torch

    width = max(len(row) for row in rows)
    pad = getattr(model.config, "pad_token_id", None) or 0
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    logits = model(input_ids=ids, attention_mask=mask).logits
    return [row[list(places)].float() for row, places in zip(logits, positions, strict=True)]


def batches(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Yields consecutive indices in batches of at most `limit` tokens; a longer text is a batch of its own."""
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
