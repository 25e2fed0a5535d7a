"""What a run has read and done so far, summed over its ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from ..data.blocks import Block
from ..data.stream import BatchInfo


@dataclass
class Totals:
    """Counts since the beginning of the run.

    Attributes:
        tokens: read by the model, special tokens included and padding not.
        padded_tokens: what they would be with every batch padded to its longest row.
        room: what the rows could have held.
        labels: tokens that were predicted.
        pieces: documents and parts of documents that were read.
        flops: floating-point operations, see `modeling.flops`.
        documents: that were prepared for reading: those of all blocks begun.
        characters: of these documents.
        truncated_tokens: that were left out since their document was too long.
        blank_rows: that were passed over.
        broken_rows: that could not be read.
        seconds: that training took, over all of its parts.
        skipped_steps: whose loss was not finite.
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
        """Share of the rows' room that held a token."""
        return self.tokens / self.room if self.room else 0.0

    @property
    def padding_saved(self) -> float:
        """Share of the padded batches that would have been padding."""
        return 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0

    def add_batch(self, info: BatchInfo, flops: int) -> None:
        """Counts a batch."""
        self.tokens += info.tokens
        self.padded_tokens += info.padded_tokens
        self.room += info.room
        self.labels += info.labels
        self.pieces += len(info.lengths)
        self.flops += flops

    def add_block(self, block: Block) -> None:
        """Counts what was read for a block."""
        for name, count in block.counts.items():
            setattr(self, name, getattr(self, name) + count)

    def add(self, values: Sequence[float]) -> None:
        """Counts what `values` of another gave."""
        for field, value in zip(fields(self), values, strict=True):
            setattr(self, field.name, getattr(self, field.name) + value)

    def values(self) -> list[float]:
        """The counts in the order of the attributes."""
        return list(asdict(self).values())

    def as_dict(self) -> dict[str, float]:
        """The counts by name."""
        return asdict(self)
