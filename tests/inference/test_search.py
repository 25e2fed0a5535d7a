"""Rankings and their metrics, against sentence-transformers, scikit-learn and all scores at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sklearn.metrics import ndcg_score

from llm_jp_modernbert.inference.retrieval import search as search_module
from llm_jp_modernbert.inference.retrieval.search import (
    BestPassages,
    Position,
    Ranked,
    Search,
    mean_metrics,
    metrics_by_query,
)


def _search(scores: np.ndarray, relevant: dict[str, dict[str, int]]) -> Search:
    passages, queries = (f"p{number}" for number in range(scores.shape[1])), range(len(scores))
    return Search({name: name for name in passages}, {f"q{number}": "" for number in queries}, relevant)


def _ranked(search: Search, scores: np.ndarray) -> Ranked:
    best = BestPassages(search)
    best.add(scores.astype(np.float32))
    return best.ranked()


def test_metrics_equal_sentence_transformers() -> None:
    drawn = np.random.default_rng(0)
    scores = np.stack([drawn.permutation(150) for _ in range(40)])
    relevant = {
        f"q{number}": {f"p{place}": 1 for place in drawn.choice(150, drawn.integers(1, 15), replace=False)}
        for number in range(40)
    }
    search = _search(scores, relevant)
    evaluator = InformationRetrievalEvaluator(
        search.queries,
        search.corpus,
        {query: set(passages) for query, passages in relevant.items()},
        precision_recall_at_k=[10, 100],
    )
    hits = [[{"corpus_id": f"p{place}", "score": score} for place, score in enumerate(row.tolist())] for row in scores]
    wanted = evaluator.compute_metrics(hits)
    assert mean_metrics(_ranked(search, scores), search) == pytest.approx(
        {
            "ndcg@10": wanted["ndcg@k"][10],
            "mrr@10": wanted["mrr@k"][10],
            "map@100": wanted["map@k"][100],
            "recall@10": wanted["recall@k"][10],
            "recall@100": wanted["recall@k"][100],
            "accuracy@1": wanted["accuracy@k"][1],
        },
        abs=1e-9,
    )


@pytest.mark.parametrize("different", [1, 2, 4, 20])
def test_metrics_of_ties_are_means_over_orders(different: int) -> None:
    drawn = np.random.default_rng(different)
    scores = drawn.integers(0, different, 20)
    grades = {f"p{number}": int(drawn.integers(1, 4)) for number in drawn.choice(20, 4, replace=False)}
    search = _search(scores[None], {"q0": grades})
    results = mean_metrics(_ranked(search, scores[None]), search)
    # Equal scores in 3,000 random orders.
    orders = np.stack([np.lexsort((drawn.random(20), -scores)).argsort() for _ in range(3000)])
    in_orders = _search(orders, {f"q{number}": grades for number in range(3000)})
    by_order = metrics_by_query(_ranked(in_orders, -orders), in_orders)
    for metric, value in results.items():
        assert value == pytest.approx(np.mean(by_order[metric]), abs=0.02), metric
    gains = [[grades.get(f"p{number}", 0) for number in range(20)]]
    assert results["ndcg@10"] == pytest.approx(ndcg_score(gains, [scores], k=10), abs=1e-9)


def test_metrics_respect_their_cutoffs() -> None:
    scores = -np.arange(150)[None]
    search = _search(scores, {"q0": {"p9": 1, "p10": 2, "p99": 1, "p100": 1}})
    results = mean_metrics(_ranked(search, scores), search)
    assert results["recall@10"] == 1 / 4
    assert results["recall@100"] == 3 / 4
    assert results["mrr@10"] == 1 / 10
    assert results["map@100"] == pytest.approx((1 / 10 + 2 / 11 + 3 / 100) / 4)
    ideal = 2 / math.log2(2) + sum(1 / math.log2(place + 1) for place in (2, 3, 4))
    assert results["ndcg@10"] == pytest.approx((1 / math.log2(11)) / ideal, abs=1e-9)


def test_retrieved_by_chance_if_all_scores_are_equal() -> None:
    search = _search(np.zeros((1, 40)), {"q0": {"p39": 1}})
    results = mean_metrics(_ranked(search, np.zeros((1, 40))), search)
    assert (results["accuracy@1"], results["recall@10"], results["recall@100"]) == (1 / 40, 10 / 40, 1)


@pytest.mark.parametrize("different", [1, 2, 5, 30])
def test_blocks_of_scores_equal_all_scores_at_once(different: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "DEPTH", 7)
    scores = np.random.default_rng(different).integers(0, different, (6, 43)).astype(np.float32)
    names = [f"p{place}" for place in range(43)]
    search = _search(scores, {f"q{number}": dict.fromkeys(names, 1) for number in range(6)})
    best = BestPassages(search)
    for first_passage in range(0, 43, 5):
        for first_query in range(0, 6, 4):
            block = scores[first_query : first_query + 4, first_passage : first_passage + 5]
            best.add(block, first_query, first_passage)
    ranked = best.ranked()
    for query, row in zip(search.queries, scores, strict=True):
        order = np.argsort(-row, kind="stable")
        assert ranked.top[query] == [names[place] for place in order[:7]]
        reachable = {name: score for name, score in zip(names, row, strict=True) if score >= row[order[6]]}
        assert ranked.positions[query] == {
            name: Position((row > score).sum(), (row == score).sum()) for name, score in reachable.items()
        }
