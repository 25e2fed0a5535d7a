"""Counts of a run: tokens, documents, time and what was skipped, summed over all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from ..data.stream import BatchInfo


@dataclass
class Totals:
    """Counts since the beginning of the run.

    Attributes:
        tokens: tokens that the model read, with special tokens but without padding.
        padded_tokens: number of tokens if every batch were padded to its longest row.
        room: number of tokens that would fit into the rows.
        labels: tokens that were predicted.
        pieces: documents and parts of documents that the model read.
        flops: floating-point operations, see `modeling.flops`.
        documents: documents in all blocks that were started.
        characters: characters of these documents.
        truncated_tokens: tokens that were dropped because their document was too long.
        blank_rows: blank rows that were skipped.
        broken_rows: unreadable rows that were skipped.
        seconds: training time in seconds, over all processes of the run.
        skipped_steps: steps that were skipped because their loss was not finite.
    """

    tokens: float = 0
    padded_tokens: float = 0
    room: float = 0
    labels: float = 0
    pieces: float = 0
    flops: float = 0
    documents: float = 0
    characters: float = 0
    truncated_tokens: float = 0
    blank_rows: float = 0
    broken_rows: float = 0
    seconds: float = 0
    skipped_steps: float = 0

    @property
    def packing_efficiency(self) -> float:
        """Fraction of the space in the rows that holds tokens."""
        return self.tokens / self.room if self.room else 0.0

    def add_batch(self, info: BatchInfo, flops: int) -> None:
        """Adds a batch and its floating-point operations."""
        self.tokens += info.tokens
        self.padded_tokens += info.padded_tokens
        self.room += info.room
        self.labels += info.labels
        self.pieces += len(info.lengths)
        self.flops += flops

    def add(self, values: Sequence[float]) -> None:
        """Adds counts in the order of the attributes, as `values` returns them."""
        for field, value in zip(fields(self), values, strict=True):
            setattr(self, field.name, getattr(self, field.name) + value)

    def values(self) -> list[float]:
        """The counts as a list, in the order of the attributes."""
        return list(asdict(self).values())
