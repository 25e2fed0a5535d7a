"""Packing keeps every token, fills rows well and separates documents."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from llm_jp_modernbert.training.data.corpus import from_documents
from llm_jp_modernbert.training.data.packing import PackedRows, balanced_order, best_fit, cut, pack

CLS, SEP = 5, 6


def documents(seed: int, count: int = 60) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    lengths = np.minimum(draw.lognormal(4, 1.2, count).astype(int) + 1, 3000)
    return [draw.integers(300, 1000, length).tolist() for length in lengths]


def packed(texts: list[list[int]], sequence_length: int) -> PackedRows:
    return pack(from_documents(texts), sequence_length, CLS, SEP)


def pieces_of(rows: PackedRows) -> list[list[int]]:
    pieces = []
    for row in range(len(rows)):
        ids, lengths = rows.row(row)
        assert lengths.sum() == len(ids) <= rows.sequence_length
        pieces += [piece.tolist() for piece in np.split(ids, np.cumsum(lengths)[:-1])]
    return pieces


@pytest.mark.parametrize("sequence_length", [3, 17, 128, 1024])
def test_every_token_occurs_once_and_in_order(sequence_length: int) -> None:
    texts = documents(seed=1)
    pieces = pieces_of(packed(texts, sequence_length))
    assert all(piece[0] == CLS and piece[-1] == SEP and len(piece) > 2 for piece in pieces)
    longest = sequence_length - 2
    expected = [text[start : start + longest] for text in texts for start in range(0, len(text), longest)]
    assert Counter(tuple(piece[1:-1]) for piece in pieces) == Counter(map(tuple, expected))


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_at_least_97_percent_full(seed: int) -> None:
    rows = packed(documents(seed, count=400), 512)
    # Best-fit decreasing needs at most 11/9 of the optimal number of rows plus 6/9.
    tokens = sum(map(len, pieces_of(rows)))
    best = -(-tokens // 512)
    assert best <= len(rows) <= 11 / 9 * best + 6 / 9
    assert tokens / (512 * len(rows)) > 0.97


def test_best_fit_chooses_the_fullest_row_with_room() -> None:
    order, rows = best_fit(np.array([7, 6, 3, 4, 10]), capacity=10)
    assert [sorted(order[rows[i] : rows[i + 1]].tolist()) for i in range(3)] == [[4], [0, 2], [1, 3]]


def test_item_larger_than_a_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="11 does not fit"):
        best_fit(np.array([11]), capacity=10)


def test_cut_without_room_for_a_token_is_an_error() -> None:
    with pytest.raises(ValueError, match="sequence length of 2"):
        cut(np.array([0, 5]), 0)


def test_empty_documents_give_no_rows() -> None:
    assert len(packed([[], []], 16)) == 0


def test_attention_pairs_are_sums_of_squared_lengths() -> None:
    rows = packed(documents(seed=3), 256)
    expected = [int((rows.row(row)[1] ** 2).sum()) for row in range(len(rows))]
    assert rows.attention_pairs().tolist() == expected
    assert packed([], 256).attention_pairs().tolist() == []


@pytest.mark.parametrize("window", [1, 2, 5, 24, 1000])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_balanced_order_is_a_random_permutation(window: int, count: int) -> None:
    costs = np.random.default_rng(0).integers(1, 9, count)
    orders = [balanced_order(costs, window, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2)]
    assert sorted(orders[0]) == list(range(count))
    assert orders[0] == orders[1]
    assert count < 7 or orders[0] != orders[2]


def test_ranks_of_a_balanced_order_have_equal_work() -> None:
    """The attention pairs of the slowest of 32 ranks, relative to the mean, in steps of 24 rows of 8,192 tokens.

    Each rank has its own lane, so it takes consecutive rows of its own blocks.
    """
    draw = np.random.default_rng(0)
    blocks = []
    for _ in range(32):
        lengths = np.minimum(draw.lognormal(6.2, 1.25, 2400).astype(int) + 1, 100_000)
        _, sizes = cut(np.concatenate([[0], np.cumsum(lengths)]), 8190)
        order, rows = best_fit(sizes + 2, 8192)
        blocks.append(np.add.reduceat(((sizes + 2) ** 2)[order], rows[:-1]))
    slowest = {}
    for name, ordered in (
        ("random", [draw.permutation(costs) for costs in blocks]),
        ("balanced", [costs[balanced_order(costs, 24, draw)] for costs in blocks]),
    ):
        rows = min(map(len, ordered))
        # The first rows of a step are anywhere in a block.
        steps = np.array([[costs[row : row + 24].sum() for costs in ordered] for row in range(5, rows - 24, 24)])
        slowest[name] = float(np.mean(steps.max(1) / steps.mean(1)))
    assert slowest["random"] > 1.3
    # Blocks differ in their mean.
    assert slowest["balanced"] < 1.25
