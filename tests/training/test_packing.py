"""Packing keeps every token, fills rows well and separates documents."""

from __future__ import annotations

from collections import Counter
from typing import Any

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
@pytest.mark.parametrize("before", [0, 3])
def test_balanced_order_is_a_permutation_that_depends_on_the_random_one(window: int, count: int, before: int) -> None:
    costs = np.random.default_rng(0).integers(1, 9, count)
    permutations = [np.random.default_rng(seed).permutation(count) for seed in (1, 1, 2)]
    orders = [balanced_order(permutation, costs, window, before).tolist() for permutation in permutations]
    assert sorted(orders[0]) == list(range(count))
    assert orders[0] == orders[1]
    assert count < 7 or orders[0] != orders[2]


def test_equal_groups_are_found() -> None:
    """Each of the costs 0 to 8 occurs twice: nine groups of two have the sum 8."""
    costs = np.repeat(np.arange(9), 2)
    order = balanced_order(np.random.default_rng(0).permutation(18), costs, 2, 0)
    assert costs[order].reshape(9, 2).sum(1).tolist() == [8] * 9
    # A row that completes an earlier group, and a last one that another block completes, have the mean cost.
    shifted = costs[balanced_order(order, costs, 2, 1)]
    assert shifted[0] == shifted[-1] == 4
    assert shifted[1:-1].reshape(8, 2).sum(1).tolist() == [8] * 8


@pytest.mark.parametrize(("window", "bound"), [(3, 1.1), (24, 1.06)])
def test_ranks_of_a_balanced_order_have_equal_work(window: int, bound: float) -> None:
    """The attention pairs of the slowest of 32 ranks, relative to the mean, in steps of a few rows of 8,192 tokens.

    Each rank has its own lane, so it takes consecutive rows of its own blocks.
    """
    draw = np.random.default_rng(0)
    lanes: list[dict[str, list[Any]]] = []
    for _ in range(32):
        lane: dict[str, list[Any]] = {"random": [], "balanced": []}
        for _ in range(2):
            lengths = np.minimum(draw.lognormal(6.2, 1.25, 6000).astype(int) + 1, 100_000)
            _, sizes = cut(np.concatenate([[0], np.cumsum(lengths)]), 8190)
            order, rows = best_fit(sizes + 2, 8192)
            costs = np.add.reduceat(((sizes + 2) ** 2)[order], rows[:-1])
            permutation = draw.permutation(len(costs))
            before = len(lane["balanced"])
            lane["random"] += costs[permutation].tolist()
            lane["balanced"] += costs[balanced_order(permutation, costs, window, before)].tolist()
        lanes.append(lane)
    slowest = {}
    for name in ("random", "balanced"):
        steps = min(len(lane[name]) for lane in lanes) // window
        work = np.array([lane[name][: steps * window] for lane in lanes]).reshape(32, steps, window).sum(2)
        slowest[name] = float(np.mean(work.max(0) / work.mean(0)))
    assert slowest["random"] > 1.3
    assert slowest["balanced"] < bound
