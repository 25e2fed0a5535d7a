"""Batches of texts: tokenised, sorted by length, cut by a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """A packed batch.

    Attributes:
        indices: the places of its documents among all texts.
        input_ids: int64 `(total_tokens,)`.
        cu_seqlens: int64 `(documents + 1,)`.
    """

    indices: np.ndarray
    input_ids: np.ndarray
    cu_seqlens: np.ndarray


def pack(rows: Sequence[Sequence[int]], indices: Sequence[int]) -> Batch:
    """Packs the token ids of documents."""
    lengths = [len(row) for row in rows]
    return Batch(
        np.asarray(indices, dtype=np.int64),
        np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def split(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Yields the indices of documents in batches of similar lengths, the longest first.

    Args:
        lengths: the number of tokens of each document.
        tokens_per_batch: maximum tokens of a batch; a longer document is a batch of its own.
    """
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and tokens + lengths[index] > tokens_per_batch:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch
