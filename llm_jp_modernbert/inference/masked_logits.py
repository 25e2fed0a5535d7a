"""Logits of masked language models at selected positions of many texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from .packed_forward import packed_forward

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# A batch of few tokens takes as long as this many more: the weights are read once per batch.
_TOKENS_OF_A_BATCH = 32


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
    logits = packed_forward(model, *packed_positions(rows, positions))["logits"]
    # topk treats NaN as the largest value.
    if bool(logits.isnan().any()):
        raise UsageError(f"{model.name_or_path}: the model gives NaN logits. Try --dtype float32.")
    return list(logits.float().split([len(places) for places in positions]))


def packed_positions(
    rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packs rows of token ids and selected positions.

    Args:
        rows: token ids of each text.
        positions: the selected positions of each row.

    Returns:
        int64 ids `(total_tokens,)`, boundaries `(texts + 1,)` and selected places `(selected,)` of the packed row.
    """
    starts = [0, *accumulate(map(len, rows))]
    selected = [start + place for start, places in zip(starts, positions, strict=False) for place in places]
    ids = [token for row in rows for token in row]
    return np.array(ids, dtype=np.int64), np.array(starts, dtype=np.int64), np.array(selected, dtype=np.int64)


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


def split(lengths: Sequence[int], tokens_per_batch: int, padding: float = 0.0) -> Iterator[list[int]]:
    """Yields the indices of documents in batches of similar lengths, the longest first.

    A batch ends at the token budget, or where its padding costs more than another batch would. A document shorter than
    the longest of its batch, `n`, wastes `n² − length²` scores.

    Args:
        lengths: the number of tokens of each document.
        tokens_per_batch: maximum tokens of a batch; a longer document is a batch of its own.
        padding: cost of a wasted score; see `encoder.batching.padding_cost`. 0 for backends that do not pad.
    """
    batch: list[int] = []
    tokens, wasted = 0, 0.0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if batch:
            wasted += padding * (lengths[batch[0]] ** 2 - length**2)
            if tokens + length > tokens_per_batch or wasted > _TOKENS_OF_A_BATCH:
                yield batch
                batch, tokens, wasted = [], 0, 0.0
        batch.append(index)
        tokens += length
    if batch:
        yield batch
