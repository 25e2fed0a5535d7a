"""Pack documents of any length into rows of one length, without dropping tokens and with almost no empty space.

A document that is too long is cut into consecutive pieces. Every piece gets its own CLS and SEP and is treated as a
separate document. Best-fit decreasing assigns the pieces to rows: longest first, each into the fullest row with enough
room. Documents of a row do not attend to each other: `cu_seqlens` gives their boundaries to the model. Concatenating
all documents and cutting at the row length would fill rows completely, but cut documents at random positions and let
them attend to each other, which costs NeoBERT 2.9 points.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..recipe.arguments import SPECIAL_TOKENS_PER_PIECE
from .corpus import TokenizedCorpus


@dataclass(frozen=True)
class PackedRows:
    """Rows of at most `sequence_length` tokens.

    Attributes:
        corpus: the corpus that holds the ids.
        sequence_length: maximum tokens per row, special tokens included.
        cls_token_id: id before every piece.
        sep_token_id: id after every piece.
        starts: `(pieces,)` int64 index of each piece's first token in `corpus.ids`.
        lengths: `(pieces,)` int64 number of tokens of each piece, special tokens excluded.
        rows: `(rows + 1,)` int64; row r holds the pieces `order[rows[r]:rows[r + 1]]`.
        order: `(pieces,)` int64 pieces in the order of the rows.
    """

    corpus: TokenizedCorpus
    sequence_length: int
    cls_token_id: int
    sep_token_id: int
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows) - 1

    def pieces(self, row: int) -> npt.NDArray[np.int64]:
        """Returns the `(pieces,)` int64 indices of a row's pieces in `starts` and `lengths`."""
        return self.order[self.rows[row] : self.rows[row + 1]]

    def attention_pairs(self) -> npt.NDArray[np.int64]:
        """Returns `(rows,)` int64 pairs of tokens that attend to each other in a row's global layers."""
        pairs = (self.lengths + SPECIAL_TOKENS_PER_PIECE)[self.order] ** 2
        return np.add.reduceat(pairs, self.rows[:-1]) if len(self) else pairs

    def row(self, row: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Returns `(tokens,)` int64 ids of a row and `(pieces,)` int64 lengths, both with special tokens."""
        return self.gather(row, self.corpus.ids, self.cls_token_id, self.sep_token_id)

    def gather(
        self, row: int, values: npt.NDArray[np.generic], before: int, after: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Like `row`, for other values than the ids.

        Args:
            row: index of the row.
            values: `(tokens of the corpus,)`, such as labels.
            before: value at CLS.
            after: value at SEP.
        """
        pieces = self.pieces(row)
        lengths = self.lengths[pieces] + SPECIAL_TOKENS_PER_PIECE
        ends = np.cumsum(lengths)
        out = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.int64)
        for start, length, end in zip(self.starts[pieces], self.lengths[pieces], ends, strict=True):
            out[end - length - 1 : end - 1] = values[start : start + length]
        out[ends - lengths] = before
        out[ends - 1] = after
        return out, lengths


def pack(
    corpus: TokenizedCorpus,
    sequence_length: int,
    cls_token_id: int,
    sep_token_id: int,
    packed: bool = True,
    truncate: bool = False,
) -> PackedRows:
    """Cuts documents into pieces and packs the pieces into rows, deterministically.

    Args:
        corpus: the documents.
        sequence_length: maximum tokens per row, special tokens included.
        cls_token_id: id before every piece.
        sep_token_id: id after every piece.
        packed: whether pieces share rows; if not, each gets its own row, in the order of the corpus.
        truncate: whether to keep only the first piece of each document.

    Raises:
        ValueError: `sequence_length` leaves no room for a token.
    """
    starts, lengths = cut(corpus.offsets, sequence_length - SPECIAL_TOKENS_PER_PIECE, truncate)
    if packed:
        order, rows = best_fit(lengths + SPECIAL_TOKENS_PER_PIECE, sequence_length)
    else:
        order, rows = np.arange(len(lengths)), np.arange(len(lengths) + 1)
    return PackedRows(corpus, sequence_length, cls_token_id, sep_token_id, starts, lengths, rows, order)


def balanced_order(
    order: npt.NDArray[np.int64], costs: npt.NDArray[np.int64], window: int, before: int
) -> npt.NDArray[np.int64]:
    """Rearranges a random order of rows into groups of `window` rows with almost equal total costs.

    Greedy number partitioning: rows are assigned by decreasing cost, each to the group that lacks most.

    Args:
        order: `(rows,)` int64 random indices of the rows, the source of all randomness.
        costs: `(rows,)` int64 costs.
        window: number of rows of a group.
        before: number of rows that precede these; if it is not a multiple of `window`, the first group completes the
            last one of those rows.

    Returns:
        `(rows,)` int64 indices of the rows, with groups, and rows of a group, in random order.
    """
    edges = np.unique([0, *range(-before % window, len(order), window), len(order)])
    sizes, total = np.diff(edges).tolist(), int(costs.sum())
    # Shortfall of a group's cost from its share, times the number of rows to be an integer; a random number for ties.
    lacking = [(-size * total, int(tie), group) for group, (size, tie) in enumerate(zip(sizes, order, strict=False))]
    heapq.heapify(lacking)
    groups: list[list[int]] = [[] for _ in sizes]
    for position in np.argsort(-costs[order], kind="stable").tolist():
        lack, tie, group = heapq.heappop(lacking)
        groups[group].append(position)
        if len(groups[group]) < sizes[group]:
            heapq.heappush(lacking, (lack + len(order) * int(costs[order[position]]), tie, group))
    return order[[position for group in groups for position in sorted(group)]]


def cut(
    offsets: npt.NDArray[np.int64], longest: int, truncate: bool = False
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cuts documents into consecutive pieces of `longest` tokens and a shorter last one.

    Args:
        offsets: `(documents + 1,)` boundaries of the documents.
        longest: maximum tokens per piece.
        truncate: whether to keep only the first piece of each document.

    Returns:
        `(pieces,)` int64 index of the first token, and `(pieces,)` int64 number of tokens.

    Raises:
        ValueError: `longest` is less than 1.
    """
    if longest < 1:
        raise ValueError(
            f"a sequence length of {longest + SPECIAL_TOKENS_PER_PIECE} leaves no room between CLS and SEP."
        )
    sizes = np.diff(offsets)
    counts = -(-sizes // longest)
    if truncate:
        counts = np.minimum(counts, 1)
    document = np.repeat(np.arange(len(sizes)), counts)
    # Index of each piece within its document.
    nth = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = offsets[document] + nth * longest
    lengths = np.minimum(longest, offsets[document + 1] - starts)
    return starts, lengths


def best_fit(sizes: npt.NDArray[np.int64], capacity: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Best-fit decreasing bin packing: every item goes into the row in which it leaves the least room.

    Rows are indexed by their remaining room, with one bit per room that has a row, so that the fullest fitting row is
    found in `capacity / 64` operations per item.

    Args:
        sizes: `(items,)` int64, each from 1 to `capacity`.
        capacity: capacity of a row.

    Returns:
        `(items,)` int64 items in the order of the rows, and `(rows + 1,)` int64 boundaries of the rows.

    Raises:
        ValueError: an item is larger than a row.
    """
    if len(sizes) and int(sizes.max()) > capacity:
        raise ValueError(f"an item of {int(sizes.max())} does not fit into a row of {capacity}.")
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r is set if by_room[r] is not empty
    # Stable: equal sizes keep the order of the corpus.
    for item in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[item])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, len(bins)
            bins.append([])
        bins[row].append(item)
        room -= size
        if room:
            by_room[room].append(row)
            rooms |= 1 << room
    order = np.array([item for row in bins for item in row], dtype=np.int64)
    boundaries = np.zeros(len(bins) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in bins], out=boundaries[1:])
    return order, boundaries
