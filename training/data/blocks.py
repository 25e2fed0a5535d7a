"""Blocks: documents that are read one after another, tokenised, shuffled and packed among themselves.

A block is the unit of shuffling, of packing and of work. It is made from its documents alone, so that any process can
make it, and after a stop it is made again: neither a shuffle buffer nor a half-full packer has to be saved, only the
place where the block begins. A few million characters pack to more than 99 % and take a second to tokenise.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset

from .corpus import from_documents
from .order import DocumentOrder, Place, Source
from .packing import PackedRows, pack
from .readers import Document, Problem, SourceError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Keeps this draw apart from others of the same seed.
_ROWS = 1
# Of the rows that are no documents so many are named; all are counted.
_NAMED_PROBLEMS = 20


@dataclass(frozen=True)
class BlockSettings:
    """How blocks are made.

    Attributes:
        sequence_length: tokens of a row at most, special tokens included.
        packed: whether documents share rows.
        truncate: whether what stands behind a document's first piece is left out.
        shuffle: whether documents and rows are shuffled within the block.
        characters: a block ends when its documents have so many characters, or with the epoch.
        interleave: files that are read side by side.
        seed: seed of all orders.
        normalization: `none`, or a Unicode form such as `NFKC` that texts are brought to.
        strict: whether a row that is no document is an error.
        whole_word: whether words are told apart, to be masked as a whole.
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

    def normalized(self, text: str) -> str:
        """A text in the wanted form."""
        return text if self.normalization == "none" else unicodedata.normalize(self.normalization, text)  # type: ignore[arg-type]


@dataclass
class Block:
    """Rows that were made from one stretch of documents.

    Attributes:
        number: of the block in the run, from 0.
        begin: the place in the order of documents where it begins, see `DocumentOrder.state`.
        rows: its packed rows.
        order: `(rows,)` in which they are to be trained on.
        places: `(documents, 4)` int64: source, epoch, shard and row of each document in `rows.corpus`.
        words: `(tokens of rows.corpus,)` int32 number of each token's word in its document, or None.
        problems: the first rows that are no documents.
        counts: of documents, characters, tokens that truncation left out, and rows by what is wrong with them.
    """

    number: int
    begin: list[dict[str, Any]]
    rows: PackedRows
    order: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    words: npt.NDArray[np.int32] | None = None
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.order)

    def samples(self, pieces: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """`(pieces, 5)` int64: the place of each piece's document, and its first token there."""
        starts, offsets = self.rows.starts[pieces], self.rows.corpus.offsets
        documents = np.searchsorted(offsets, starts, side="right") - 1
        return np.column_stack([self.places[documents], starts - offsets[documents]])


# Ids of texts, and where wanted the word of each.
_Encode = Callable[[list[str]], Sequence[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32] | None]]]


@dataclass
class _Stretch:
    """The documents of a block to be."""

    number: int
    begin: list[dict[str, Any]]
    documents: list[tuple[Place, Document]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


class BlockMaker:
    """Makes blocks out of sources.

    Args:
        sources: what is read.
        settings: how blocks are made.
        tokenizer: a fast tokenizer with CLS and SEP; its ids are those of the rows.
    """

    def __init__(self, sources: Sequence[Source], settings: BlockSettings, tokenizer: PreTrainedTokenizerBase) -> None:
        self.sources = sources
        self.settings = settings
        self.tokenizer = tokenizer

    def blocks(
        self,
        wanted: Callable[[int], bool] = lambda number: True,
        first: int = 0,
        begin: list[dict[str, Any]] | None = None,
        threads: int = 1,
    ) -> Iterator[Block]:
        """Blocks from one on, for ever; those that are not wanted are read, but not made.

        Args:
            wanted: of a block's number, whether it is to be made.
            first: number of the first.
            begin: the place where that begins; None for the beginning of everything.
            threads: that tokenise.

        Raises:
            SourceError: see `read_documents` and `DocumentOrder`.
        """
        from .encoding import Encoder
        from .words import WordEncoder

        encode: _Encode
        if self.settings.whole_word:
            encode = WordEncoder(self.tokenizer).encode
        else:
            # A tokenised corpus needs none, and it takes a second to make.
            encoder = cache(lambda: Encoder(self.tokenizer, threads))
            encode = lambda texts: [(ids, None) for ids in encoder().encode(texts)] if texts else []  # noqa: E731
        for stretch in self._stretches(first, begin):
            if wanted(stretch.number):
                yield self._make(stretch, encode)

    def _stretches(self, number: int, begin: list[dict[str, Any]] | None) -> Iterator[_Stretch]:
        problems: list[Problem] = []

        def note(problem: Problem) -> None:
            if self.settings.strict and problem.reason != "blank":
                raise SourceError(str(problem))
            problems.append(problem)

        settings = self.settings
        interleave = settings.interleave if settings.shuffle else 1
        order = DocumentOrder(self.sources, settings.seed, settings.shuffle, interleave, note, begin)
        while True:
            stretch = _Stretch(number, order.state(), problems=problems)
            characters = 0
            while characters < settings.characters and (found := order.next()) is not None:
                stretch.documents.append(found)
                characters += found[1].characters
            stretch.problems = problems.copy()
            problems.clear()
            if stretch.documents:
                yield stretch
                number += 1

    def _make(self, stretch: _Stretch, encode: _Encode) -> Block:
        settings = self.settings
        documents = stretch.documents
        draw = np.random.default_rng((_ROWS, settings.seed, stretch.number))
        if settings.shuffle:
            # Not only the rows: what shares a row is to be another choice in every epoch.
            documents = [documents[index] for index in draw.permutation(len(documents))]
        encoded = iter(
            encode([settings.normalized(document.text) for _, document in documents if document.ids is None])
        )
        found = [(document.ids, None) if document.ids is not None else next(encoded) for _, document in documents]
        kept = [(place, ids, words) for (place, _), (ids, words) in zip(documents, found, strict=True) if len(ids)]
        if settings.whole_word and any(document.ids is not None for _, document in documents):
            raise SourceError("whole_word: a tokenised corpus does not say where words begin: train on the texts.")
        corpus = from_documents(ids for _, ids, _ in kept)
        tokenizer = self.tokenizer
        rows = pack(
            corpus,
            settings.sequence_length,
            tokenizer.cls_token_id,
            tokenizer.sep_token_id,
            settings.packed,
            settings.truncate,
        )
        counts = {
            "documents": len(kept),
            "characters": sum(document.characters for _, document in documents),
            "truncated_tokens": len(corpus.ids) - int(rows.lengths.sum()),
            "blank_rows": sum(problem.reason == "blank" for problem in stretch.problems),
        }
        broken = [problem for problem in stretch.problems if problem.reason != "blank"]
        counts["broken_rows"] = len(broken)
        return Block(
            stretch.number,
            stretch.begin,
            rows,
            draw.permutation(len(rows)) if settings.shuffle else np.arange(len(rows)),
            np.array([[p.source, p.epoch, p.shard, p.row] for p, _, _ in kept], dtype=np.int64).reshape(-1, 4),
            np.concatenate([words for _, _, words in kept if words is not None]) if settings.whole_word else None,
            [str(problem) for problem in broken[:_NAMED_PROBLEMS]],
            counts,
        )


class BlockDataset(IterableDataset[Block | SourceError]):
    """The blocks that one rank wants, dealt to the workers of its DataLoader in turn.

    Every worker reads all documents, which is cheap, and makes its own blocks. An error is handed on as a value: a
    DataLoader would wrap it into a traceback, although its one line is meant for the user.

    Args:
        maker: makes the blocks.
        wanted: of a block's number, whether this rank wants it.
        first: number of the first block.
        begin: the place where that begins.
    """

    def __init__(
        self,
        maker: BlockMaker,
        wanted: Callable[[int], bool],
        first: int = 0,
        begin: list[dict[str, Any]] | None = None,
    ) -> None:
        self.maker = maker
        self.wanted = wanted
        self.first = first
        self.begin = begin

    def __iter__(self) -> Iterator[Block | SourceError]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        dealt = -1

        def mine(number: int) -> bool:
            nonlocal dealt
            if not self.wanted(number):
                return False
            dealt += 1
            return dealt % workers == worker

        threads = torch.get_num_threads() if info is None else 1
        try:
            yield from self.maker.blocks(mine, self.first, self.begin, threads)
        except SourceError as error:
            yield error
