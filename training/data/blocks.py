"""Blocks: consecutive documents that are tokenized, shuffled and packed together.

A block is the unit of shuffling, packing and work. It is made from its documents alone, so any process can make it and
can make it again on resuming: instead of a shuffle buffer or a half-filled packer, a checkpoint saves the position at
which the block begins. A few million characters are packed to more than 99 % and tokenized within a second.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from .corpus import from_documents
from .encoding import Encoder, WordEncoder
from .order import DocumentOrder, Place, Position, ShardList, Source
from .packing import PackedRows, balanced_order, pack
from .readers import BadRow, Document, SourceError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Distinguishes this draw from others with the same seed.
_ROWS = 1
_MAX_LISTED_PROBLEMS = 20


@dataclass(frozen=True)
class BlockSettings:
    """How blocks are made.

    Attributes:
        sequence_length: maximum tokens per row, special tokens included.
        packed: whether documents share rows.
        truncate: whether only the first piece of a long document is kept.
        shuffle: whether to shuffle documents and rows within the block.
        characters: a block ends when its documents reach this number of characters, or with the epoch.
        interleave: number of open files, which give one document each in turn.
        seed: seed of all orders.
        normalization: `none`, or a Unicode form such as `NFKC` to apply to the texts.
        strict: whether an unreadable row is an error.
        whole_word: whether to segment words, so that they can be masked as a whole.
        balanced_rows: number of rows of a lane in an optimizer step, whose attention takes about the same time in
            all steps of a block, see `balanced_order`; 0 for a random order.
    """

    sequence_length: int
    packed: bool = True
    truncate: bool = False
    shuffle: bool = True
    characters: int = 4_000_000
    interleave: int = 8
    seed: int = 0
    normalization: str = "none"
    strict: bool = False
    whole_word: bool = False
    balanced_rows: int = 0


def normalize(text: str, form: str) -> str:
    """Applies a Unicode form to a text; `none` returns it unchanged."""
    return text if form == "none" else unicodedata.normalize(cast("Literal['NFC', 'NFKC']", form), text)


def known_ids(document: Document, vocabulary: int) -> npt.NDArray[np.int32]:
    """The `(tokens,)` ids of a tokenized document; a `SourceError` if one is not below the size of the vocabulary."""
    ids = cast("npt.NDArray[np.int32]", document.ids)
    if len(ids) and not 0 <= ids.min() <= ids.max() < vocabulary:
        unknown = ids[(ids < 0) | (ids >= vocabulary)][0]
        raise SourceError(
            f"{document.path}, row {document.row}: token id {unknown:,}, but the tokenizer has {vocabulary:,} tokens. "
            "Tokenize the texts again with this tokenizer."
        )
    return ids


@dataclass
class Block:
    """Packed rows of consecutive documents.

    Attributes:
        number: index of the block in the run.
        begin: position in the order of documents at which it begins, see `DocumentOrder.state`.
        rows: its packed rows.
        order: `(rows,)` order in which the rows are trained on.
        places: `(documents, 4)` int64: source, epoch, shard and row of each document of `rows.corpus`.
        words: `(tokens of rows.corpus,)` int32 index of each token's word in its document, or None.
        problems: messages of the first unreadable rows.
        counts: numbers of documents, characters, truncated tokens, blank and unreadable rows.
    """

    number: int
    begin: list[Position]
    rows: PackedRows
    order: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    words: npt.NDArray[np.int32] | None = None
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.order)

    def balance(self, window: int, before: int) -> None:
        """Rearranges `order` such that steps have equal work, see `balanced_order`."""
        self.order = balanced_order(self.order, self.rows.attention_pairs(), window, before)

    def samples(self, pieces: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """`(pieces, 5)` int64: the place of each piece's document, and the piece's first token in the document."""
        starts, offsets = self.rows.starts[pieces], self.rows.corpus.offsets
        documents = np.searchsorted(offsets, starts, side="right") - 1
        return np.column_stack([self.places[documents], starts - offsets[documents]])


class BlockPositions(Protocol):
    """Known beginnings of blocks, see `block_index`."""

    def __len__(self) -> int:
        """Number of blocks, counted from the first of the run."""

    def position(self, number: int) -> list[Position]:
        """The position at which a block begins, see `DocumentOrder.state`."""

    def check(self, sources: Sequence[Source], settings: BlockSettings, shards: Sequence[ShardList]) -> None:
        """Raises a `UsageError` if the positions belong to other data or settings."""


class BlockMaker:
    """Makes the blocks of some sources.

    Args:
        sources: the sources.
        settings: how blocks are made.
        tokenizer: a fast tokenizer that has CLS and SEP.
        index: positions of these blocks, if known.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        settings: BlockSettings,
        tokenizer: PreTrainedTokenizerBase,
        index: BlockPositions | None = None,
    ) -> None:
        self.sources, self.settings, self.tokenizer, self.index = sources, settings, tokenizer, index

    def blocks(
        self,
        numbers: Iterable[int] | None = None,
        first: int = 0,
        begin: list[Position] | None = None,
        threads: int = 1,
    ) -> Iterator[Block]:
        """Yields blocks.

        Args:
            numbers: ascending numbers of the blocks to make, from `first`; None for all of them, endlessly. The
                documents of the blocks between them are read but not tokenized, unless `index` has the positions.
            first: number of the first block.
            begin: position at which it begins; None for the beginning of the sources.
            threads: threads for tokenization.

        Raises:
            SourceError: see `read_documents` and `DocumentOrder`.
        """
        # Made on first use, which takes a second: a tokenized corpus does not need it.
        encoder = cache(
            lambda: WordEncoder(self.tokenizer) if self.settings.whole_word else Encoder(self.tokenizer, threads)
        )
        indexed = 0 if self.index is None else len(self.index)
        number, order = first, self._order(begin)
        for wanted in count(first) if numbers is None else numbers:
            nearest = min(wanted, indexed - 1)
            if self.index is not None and nearest > number:
                number, order = nearest, self._order(self.index.position(nearest))
            while number <= wanted:
                begin = order.state()
                documents, bad_rows = self._read(order)
                if number == wanted:
                    yield self._make(number, begin, documents, bad_rows, encoder)
                number += 1

    def begins(self, first: int = 0, begin: list[Position] | None = None) -> Iterator[tuple[int, list[Position]]]:
        """Yields the number and the beginning of each block, endlessly. Documents are read but not tokenized.

        Args:
            first: number of the first block.
            begin: position at which it begins; None for the beginning of the sources.

        Raises:
            SourceError: see `DocumentOrder`.
        """
        order = self._order(begin)
        for number in count(first):
            yield number, order.state()
            self._read(order)

    def _order(self, begin: list[Position] | None) -> DocumentOrder:
        settings = self.settings
        interleave = settings.interleave if settings.shuffle else 1
        return DocumentOrder(
            self.sources, settings.seed, settings.shuffle, interleave, strict=settings.strict, state=begin
        )

    def _read(self, order: DocumentOrder) -> tuple[list[tuple[Place, Document]], list[BadRow]]:
        """Reads the documents of the next block, and the unreadable rows between them."""
        documents: list[tuple[Place, Document]] = []
        characters = 0
        # At the end of an epoch the order returns None, and a block ends unless it is empty.
        while not documents:
            while characters < self.settings.characters and (item := order.next()) is not None:
                documents.append(item)
                characters += item[1].characters
        bad_rows, order.bad_rows = order.bad_rows, []
        return documents, bad_rows

    def _make(
        self,
        number: int,
        begin: list[Position],
        documents: list[tuple[Place, Document]],
        bad_rows: list[BadRow],
        encoder: Callable[[], Encoder | WordEncoder],
    ) -> Block:
        settings, tokenizer = self.settings, self.tokenizer
        draw = np.random.default_rng((_ROWS, settings.seed, number))
        if settings.shuffle:
            # Before packing, so that the documents that share a row change with every epoch.
            documents = [documents[index] for index in draw.permutation(len(documents))]
        encoded = [
            (place, ids, words)
            for (place, _), (ids, words) in zip(documents, self._encode(documents, encoder), strict=True)
            if len(ids)
        ]
        corpus = from_documents(ids for _, ids, _ in encoded)
        rows = pack(
            corpus,
            settings.sequence_length,
            tokenizer.cls_token_id,
            tokenizer.sep_token_id,
            settings.packed,
            settings.truncate,
        )
        order = draw.permutation(len(rows)) if settings.shuffle else np.arange(len(rows))
        unreadable = [str(row) for row in bad_rows if not row.is_blank]
        return Block(
            number,
            begin,
            rows,
            order,
            np.array([[p.source, p.epoch, p.shard, p.row] for p, _, _ in encoded], dtype=np.int64).reshape(-1, 4),
            np.concatenate([words for _, _, words in encoded if words is not None]) if settings.whole_word else None,
            unreadable[:_MAX_LISTED_PROBLEMS],
            {
                "documents": len(encoded),
                "characters": sum(document.characters for _, document in documents),
                "truncated_tokens": len(corpus.ids) - int(rows.lengths.sum()),
                "blank_rows": len(bad_rows) - len(unreadable),
                "broken_rows": len(unreadable),
            },
        )

    def _encode(
        self, documents: list[tuple[Place, Document]], encoder: Callable[[], Encoder | WordEncoder]
    ) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32] | None]]:
        """Ids of each document, and the words of its tokens if `whole_word` is set."""
        texts = [
            normalize(document.text, self.settings.normalization) for _, document in documents if document.ids is None
        ]
        if self.settings.whole_word and len(texts) < len(documents):
            raise SourceError("whole_word: a tokenized corpus has no word boundaries. Train on the texts.")
        encoded = iter(encoder().encode(texts) if texts else ())
        vocabulary = len(self.tokenizer)
        for _, document in documents:
            ids = next(encoded) if document.ids is None else known_ids(document, vocabulary)
            yield ids if isinstance(ids, tuple) else (ids, None)
