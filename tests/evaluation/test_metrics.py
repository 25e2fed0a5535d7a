"""Metrics loaded by the library evaluate, against their definitions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from llm_jp_modernbert.core.intervals import bootstrap
from llm_jp_modernbert.evaluation import metrics
from llm_jp_modernbert.evaluation.metrics.pseudo_perplexity.pseudo_perplexity import pseudo_perplexity
from llm_jp_modernbert.evaluation.tasks.retrieval import Position, ranking_metrics

DRAWN = np.random.default_rng(0)
FIRST, SECOND = DRAWN.normal(size=(2, 7, 5))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(sum(value * value for value in vector))


def test_alignment_equals_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # From any folder, not only from a checkout.
    monkeypatch.chdir(tmp_path)
    results = metrics.load("alignment").compute(predictions=FIRST, references=SECOND)
    distances = [sum((_unit(a) - _unit(b)) ** 2) for a, b in zip(FIRST, SECOND, strict=True)]
    assert results == {"alignment": pytest.approx(sum(distances) / 7, abs=1e-9)}


def test_uniformity_equals_loop() -> None:
    results = metrics.load("uniformity").compute(predictions=FIRST)
    potentials = [
        math.exp(-2 * sum((_unit(a) - _unit(b)) ** 2))
        for i, a in enumerate(FIRST)
        for j, b in enumerate(FIRST)
        if i != j
    ]
    assert results == {"uniformity": pytest.approx(math.log(sum(potentials) / len(potentials)), abs=1e-9)}


def test_pseudo_perplexity_equals_hand_computation() -> None:
    metric = metrics.load("pseudo_perplexity")
    results = metric.compute(predictions=[[1.0, 2.0], [3.0]], references=[[1.0, 3.0], [2.0]])
    assert results["pseudo_perplexity"] == pytest.approx(math.exp(6 / 3))
    assert results["pseudo_perplexity_per_character"] == pytest.approx(math.exp(6 / 6))
    assert results["by_document"] == pytest.approx([math.exp(1.5), math.exp(3.0)])


def _ranked(order: list[str], relevant: dict[str, int]) -> dict[str, float]:
    """Metrics of one ranking without ties."""
    return ranking_metrics({"q": {name: Position(order.index(name), 1) for name in relevant}}, {"q": relevant})


def test_ranking_metrics_equal_loops() -> None:
    passages = [f"p{number}" for number in range(30)]
    for seed in range(20):
        drawn = np.random.default_rng(seed)
        grades = drawn.integers(0, 3, 30) * (drawn.random(30) < 0.3)
        if not grades.any():
            continue
        order = drawn.permutation(30)
        relevant = {passages[index]: int(grade) for index, grade in enumerate(grades) if grade}
        results = _ranked([passages[index] for index in order], relevant)
        discounts = [1 / math.log2(rank + 1) for rank in range(1, 11)]
        gain = sum(grades[index] * discount for index, discount in zip(order, discounts, strict=False))
        ideal = sum(grade * discount for grade, discount in zip(sorted(grades)[::-1], discounts, strict=False))
        assert results["ndcg@10"] == pytest.approx(gain / ideal, abs=1e-9)
        hits = [grades[index] > 0 for index in order]
        assert results["recall@100"] == 1
        assert results["recall@10"] == pytest.approx(sum(hits[:10]) / (grades > 0).sum())
        assert results["mrr@10"] == pytest.approx(1 / (hits.index(True) + 1) if True in hits[:10] else 0.0)


def test_ranking_metrics_respect_their_cutoffs() -> None:
    results = _ranked([f"p{number}" for number in range(150)], {"p9": 1, "p10": 2, "p99": 1, "p100": 1})
    assert results["recall@10"] == 1 / 4
    assert results["recall@100"] == 3 / 4
    assert results["mrr@10"] == 1 / 10
    ideal = 2 / math.log2(2) + sum(1 / math.log2(place + 1) for place in (2, 3, 4))
    assert results["ndcg@10"] == pytest.approx((1 / math.log2(11)) / ideal, abs=1e-9)


@pytest.mark.parametrize("different", [1, 2, 4, 20])
def test_ranking_metrics_of_ties_are_means_over_orders(different: int) -> None:
    drawn = np.random.default_rng(different)
    scores = drawn.integers(0, different, 20)
    grades = {f"p{number}": int(drawn.integers(1, 4)) for number in drawn.choice(20, 4, replace=False)}
    positions = {
        name: Position(int((scores > scores[int(name[1:])]).sum()), int((scores == scores[int(name[1:])]).sum()))
        for name in grades
    }
    results = ranking_metrics({"q": positions}, {"q": grades})
    orders = [np.lexsort((drawn.random(20), -scores)) for _ in range(3000)]
    of_orders = [_ranked([f"p{index}" for index in order], grades) for order in orders]
    for metric, value in results.items():
        assert value == pytest.approx(np.mean([one[metric] for one in of_orders]), abs=0.02), metric
    gains = [[grades.get(f"p{number}", 0) for number in range(20)]]
    assert results["ndcg@10"] == pytest.approx(ndcg_score(gains, [scores], k=10), abs=1e-9)


def test_interval_of_two_examples_equals_hand_computation() -> None:
    # A quarter of the resamples contain the first example twice, another quarter the second one twice.
    assert bootstrap((np.array([1.0, 3.0]),), np.mean, 0) == (1.0, 3.0)
    low, high = bootstrap((np.array([2.0, 6.0]), np.array([2.0, 3.0])), pseudo_perplexity, 0)
    assert (low, high) == pytest.approx((math.exp(2 / 2), math.exp(6 / 3)), abs=1e-6)
    assert bootstrap((np.array([1.0]),), np.mean, 0) == (None, None)


def test_interval_of_many_examples_is_close_to_normal() -> None:
    sample = DRAWN.normal(size=400)
    low, high = bootstrap((sample,), np.mean, 0)
    error = 1.96 * sample.std() / 20
    assert (low, high) == pytest.approx((sample.mean() - error, sample.mean() + error), abs=0.15 * error)
