"""Packed rows as a dataset for Trainer: shuffled anew in every epoch, masked, and put together to packed batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from .masking import Masking
from .packing import PackedRows

# Keeps these draws apart from those of the masks.
_ORDER = 1


class PackedDataset(Dataset[dict[str, Any]]):
    """All samples of a run, several epochs in one sequence.

    Sample i belongs to epoch i // rows, and which row it is follows from (seed, epoch): reading on from sample n after
    a stop gives what would have come without it. It is to be read in order.

    Args:
        rows: the packed rows.
        masking: how they are masked.
        samples: length of the run, in rows.
        seed: seed of order and masks.
        first_epoch: number of the first epoch; another stage of the same run takes another, for other masks.

    Raises:
        ValueError: there are no rows.
    """

    def __init__(self, rows: PackedRows, masking: Masking, samples: int, seed: int, first_epoch: int = 0) -> None:
        if not len(rows):
            raise ValueError("there is no text to train on.")
        self.rows = rows
        self.masking = masking
        self.samples = samples
        self.seed = seed
        self.first_epoch = first_epoch
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`input_ids` and `labels` `(tokens,)` int64, and `lengths` `(documents,)` int64."""
        if not 0 <= index < self.samples:
            raise IndexError(index)
        passed, position = divmod(index, len(self.rows))
        epoch = self.first_epoch + passed
        row = int(self._order_of(epoch)[position])
        ids, lengths = self.rows.row(row)
        inputs, labels = self.masking(ids, self.seed, epoch, row)
        return {"input_ids": inputs, "labels": labels, "lengths": lengths}

    def _order_of(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((_ORDER, self.seed, epoch)).permutation(len(self.rows)))
        return self._order[1]


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Puts samples side by side into one packed row, without padding.

    Args:
        samples: as `PackedDataset` yields them.

    Returns:
        `input_ids` and `labels` `(1, total_tokens)` int64, `cu_seqlens` `(documents + 1,)` int32.
    """
    lengths = np.concatenate([sample["lengths"] for sample in samples])
    batch = {
        name: torch.from_numpy(np.concatenate([sample[name] for sample in samples]))[None]
        for name in ("input_ids", "labels")
    }
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return {**batch, "cu_seqlens": torch.from_numpy(cu_seqlens)}
