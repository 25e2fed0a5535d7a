"""Retrieval datasets, rankings of their passages, and metrics of rankings.

Passages of equal score have no order: a metric is its mean over all orders of them (McSherry and Najork 2008,
"Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

DEPTH = 100
"""Number of passages in the ranking of a query."""

# Sums of the discounts of the first ranks, from no rank to 10.
_DISCOUNTS = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, 12)))])


@dataclass(frozen=True)
class Search:
    """A retrieval dataset.

    Attributes:
        corpus: passages by id.
        queries: queries by id.
        relevant: for each query, the grade (1 or higher) of each relevant passage.
    """

    corpus: dict[str, str]
    queries: dict[str, str]
    relevant: dict[str, dict[str, int]] = field(repr=False)


class Position(NamedTuple):
    """Position of a passage in the ranking of a query.

    Attributes:
        closer: number of passages with a greater score.
        equal: number of passages with the same score, itself included.
    """

    closer: int
    equal: int


@dataclass(frozen=True)
class Ranked:
    """Rankings of a retrieval dataset.

    Attributes:
        top: for each query the ids of at most `DEPTH` passages, the best first.
        positions: for each query the positions of the relevant passages that can be among them.
    """

    top: dict[str, list[str]]
    positions: dict[str, dict[str, Position]]


class BestPassages:
    """Collects the passages with the greatest scores of each query from blocks of scores.

    Args:
        search: the dataset.
        decimals: decimal places of scores; scores that differ in later digits are equal. Float32 scores of equal
            texts in different batches differ in their last digits.
    """

    def __init__(self, search: Search, decimals: int = 6) -> None:
        self._decimals = decimals
        self._passages, self._queries = list(search.corpus), list(search.queries)
        shape = len(self._queries), min(DEPTH, len(self._passages))
        # The greatest scores in descending order, the places of their passages, and the number of all passages with
        # the last of these scores, including those beyond the depth.
        self._scores = np.full(shape, -np.inf, np.float32)
        self._places = np.zeros(shape, np.int64)
        self._last_ties = np.zeros((len(self._queries), 1), np.int64)
        places = {passage: place for place, passage in enumerate(self._passages)}
        self._relevant = [[places[passage] for passage in search.relevant.get(query, ())] for query in self._queries]
        self._relevant_scores: list[dict[int, float]] = [{} for _ in self._queries]

    def add(self, scores: np.ndarray, first_query: int = 0, first_passage: int = 0) -> None:
        """Adds a block of scores; blocks of the same queries are added in the order of the passages.

        Args:
            scores: float32 `(queries, passages)` for consecutive queries and passages of the dataset.
            first_query: place of the first query.
            first_passage: place of the first passage.
        """
        scores = np.round(scores, self._decimals)
        rows = slice(first_query, first_query + len(scores))
        end = first_passage + scores.shape[1]
        for row, places, known in zip(scores, self._relevant[rows], self._relevant_scores[rows], strict=True):
            known |= {place: row[place - first_passage] for place in places if first_passage <= place < end}
        before = self._scores[rows].copy()
        columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        # Scores below the last one so far are not among the greatest, and need not be sorted.
        width = int((scores >= before[:, -1:]).sum(1).max(initial=0))
        if width < scores.shape[1]:
            columns = np.sort(np.argpartition(-scores, width, axis=1)[:, :width], axis=1)
        merged = np.concatenate([before, np.take_along_axis(scores, columns, 1)], axis=1)
        merged_places = np.concatenate([self._places[rows], first_passage + columns], axis=1)
        best = np.argsort(-merged, axis=1, kind="stable")[:, : before.shape[1]]
        self._scores[rows] = np.take_along_axis(merged, best, 1)
        self._places[rows] = np.take_along_axis(merged_places, best, 1)
        last = self._scores[rows, -1:]
        # Passages beyond the depth count as long as the last score stays the same.
        counted = np.where(before[:, -1:] == last, self._last_ties[rows], (before == last).sum(1, keepdims=True))
        self._last_ties[rows] = counted + (scores == last).sum(1, keepdims=True)

    def ranked(self) -> Ranked:
        """The rankings after the last block."""
        passages = self._passages
        top = {
            query: [passages[place] for place in row] for query, row in zip(self._queries, self._places, strict=True)
        }
        positions = {
            query: {
                passages[place]: self._position(row, score)
                for place, score in self._relevant_scores[row].items()
                if score >= self._scores[row, -1]
            }
            for row, query in enumerate(self._queries)
        }
        return Ranked(top, positions)

    def _position(self, row: int, score: float) -> Position:
        scores = self._scores[row]
        equal = self._last_ties[row, 0] if score == scores[-1] else (scores == score).sum()
        return Position(int((scores > score).sum()), int(equal))


def mean_metrics(ranked: Ranked, search: Search) -> dict[str, float]:
    """Means of `metrics_by_query` over the queries."""
    return {metric: float(np.mean(values)) for metric, values in metrics_by_query(ranked, search).items()}


def metrics_by_query(ranked: Ranked, search: Search) -> dict[str, list[float]]:
    """nDCG@10, MRR@10, MAP@100, recall@10, recall@100 and accuracy@1, each a mean over the orders of equal passages.

    nDCG has linear gains like trec_eval and BEIR: grade / log2(rank + 1) (Järvelin and Kekäläinen 2002).

    Args:
        ranked: rankings of the dataset.
        search: the dataset; each query has a relevant passage.

    Returns:
        For each metric, its values from 0 to 1 in the order of the queries.
    """
    values = [_metrics(ranked.positions[query], search.relevant[query]) for query in search.queries]
    return {metric: [of_query[metric] for of_query in values] for metric in (values[0] if values else ())}


def _metrics(positions: Mapping[str, Position], grades: Mapping[str, int]) -> dict[str, float]:
    gain = sum(
        grades[passage] * (_DISCOUNTS[min(10, closer + equal)] - _DISCOUNTS[min(10, closer)]) / equal
        for passage, (closer, equal) in positions.items()
    )
    ideal = np.sort(list(grades.values()))[::-1][:10] @ np.diff(_DISCOUNTS)[: len(grades)]
    places = list(positions.values())
    return {
        "ndcg@10": float(gain / ideal),
        "mrr@10": _reciprocal_rank(places),
        "map@100": _average_precision(places, 100) / min(100, len(grades)),
        "recall@10": _retrieved(places, 10) / len(grades),
        "recall@100": _retrieved(places, 100) / len(grades),
        # The equal passages at the top share the first rank.
        "accuracy@1": _retrieved(places, 1),
    }


def _retrieved(positions: Sequence[Position], depth: int) -> float:
    """Number of relevant passages among the first `depth`."""
    return sum(min(1.0, max(0, depth - closer) / equal) for closer, equal in positions)


def _reciprocal_rank(positions: Sequence[Position]) -> float:
    """1 / rank of the first relevant passage; 0 beyond rank 10."""
    if not positions:
        return 0.0
    closer, equal = min(positions)
    relevant = positions.count(Position(closer, equal))
    value, none_before = 0.0, 1.0
    for place in range(closer + 1, min(10, closer + equal) + 1):
        # Probability that the passage at this rank is relevant, given that the equal ones before it are not.
        probability = min(1.0, relevant / (closer + equal - place + 1))
        value += none_before * probability / place
        none_before *= 1 - probability
    return value


def _average_precision(positions: Sequence[Position], depth: int) -> float:
    """Sum of the precisions at the ranks of the relevant passages among the first `depth`."""
    value, before = 0.0, 0
    for group in sorted(set(positions)):
        closer, equal = group
        relevant = positions.count(group)
        for place in range(1, min(equal, depth - closer) + 1):
            # If the passage at this rank is relevant, the other relevant ones have any of the other ranks.
            equal_before = (place - 1) * (relevant - 1) / max(1, equal - 1)
            value += relevant / equal * (before + 1 + equal_before) / (closer + place)
        before += relevant
    return value
