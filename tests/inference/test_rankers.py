"""Rankings by each type of model, against plain sentence-transformers and loops over all pairs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_data import PLACES, SUBJECTS
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

from llm_jp_modernbert.inference.retrieval import rankers
from llm_jp_modernbert.inference.retrieval import search as search_module
from llm_jp_modernbert.inference.retrieval.pairs import pair_scores
from llm_jp_modernbert.inference.retrieval.rankers import Reranker, ranker_of
from llm_jp_modernbert.inference.retrieval.search import Position, Ranked, Search, mean_metrics

CORPUS = {f"p{number}": f"{one}が{place}に行く。" for number, (one, place) in enumerate(product(SUBJECTS, PLACES))}
CORPUS["twin"] = CORPUS["p3"]
QUERIES = {"q0": "猫が駅に行く。", "q1": "母が海に着く。", "q2": "鳥"}
ENCODERS = {"embedder": SentenceTransformer, "sparse": SparseEncoder, "late interaction": MultiVectorEncoder}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest, modernbert: Path) -> Any:
    """An encoder of each type, with prompts."""
    return ENCODERS[request.param](str(modernbert), device="cpu", prompts={"query": "先生が ", "document": "海の "})


def test_ranking_in_parts_equals_similarities_of_all_passages(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "DEPTH", 7)
    ranker = ranker_of(encoder, tokens_per_batch=200)
    # The best passages are merged from several parts.
    ranker.passages_at_once, ranker.queries_at_once = 5, 2
    relevant = {query: dict.fromkeys(CORPUS, 1) for query in QUERIES}
    ranked = ranker.rank(Search(CORPUS, QUERIES, relevant))
    passages = encoder.encode_document(list(CORPUS.values()))
    similarities = encoder.similarity(encoder.encode_query(list(QUERIES.values())), passages)
    similarities = (similarities.to_dense() if similarities.is_sparse else similarities).numpy().round(ranker.decimals)
    for query, row in zip(QUERIES, similarities, strict=True):
        scores = dict(zip(CORPUS, row.tolist(), strict=True))
        wanted = sorted(scores.values(), reverse=True)[:7]
        assert [scores[passage] for passage in ranked.top[query]] == pytest.approx(wanted, rel=1e-4)
        assert ranked.positions[query].keys() >= set(ranked.top[query])


def test_late_interaction_scores_equal_loop(modernbert: Path) -> None:
    model = MultiVectorEncoder(str(modernbert), device="cpu")
    ranker = ranker_of(model, tokens_per_batch=100)
    texts = list(QUERIES.values()), list(CORPUS.values())[:9]
    queries, passages = (
        ranker.encode(side, role, lambda share: None) for side, role in zip(texts, ("query", "document"), strict=True)
    )
    for query, row in zip(queries, ranker.scores(queries, passages), strict=True):
        for passage, score in zip(passages, row, strict=True):
            best = [max(float(token @ other) for other in passage) for token in query]
            assert score == pytest.approx(sum(best), rel=1e-5)


def test_equal_passages_share_their_ranks(encoder: Any) -> None:
    """The relevant passage is first in half of the orders."""
    search = Search({"relevant": "猫が駅に行く。", "twin": "猫が駅に行く。"}, {"q": "猫"}, {"q": {"relevant": 1}})
    ranked = ranker_of(encoder, 4096).rank(search)
    assert ranked.positions == {"q": {"relevant": (0, 2)}}
    assert mean_metrics(ranked, search)["mrr@10"] == (1 + 1 / 2) / 2


@pytest.fixture(scope="module")
def reranker(modernbert: Path) -> CrossEncoder:
    """An untrained reranker."""
    return CrossEncoder(str(modernbert), num_labels=1, device="cpu")


def test_reranker_orders_the_first_passages(reranker: CrossEncoder) -> None:
    relevant = {query: dict.fromkeys(list(CORPUS)[10:40:3], 1) for query in QUERIES}
    search = Search(CORPUS, QUERIES, relevant)
    passages = list(CORPUS)
    drawn = np.random.default_rng(0)
    orders = {query: [passages[place] for place in drawn.permutation(len(passages))] for query in QUERIES}
    positions = {
        query: {passage: Position(orders[query].index(passage), 1) for passage in relevant[query]} for query in QUERIES
    }
    reranked = Reranker(reranker, Ranked(orders, positions), 20, tokens_per_batch=200).rank(search)
    for query, text in QUERIES.items():
        first, rest = orders[query][:20], orders[query][20:]
        scores = dict(zip(first, reranker.predict([(text, CORPUS[passage]) for passage in first]), strict=True))
        assert [scores[passage] for passage in reranked.top[query][:20]] == pytest.approx(
            sorted(scores.values(), reverse=True), abs=1e-5
        )
        assert reranked.top[query][20:] == rest
        for passage, position in reranked.positions[query].items():
            if passage in rest:
                assert position == positions[query][passage]
            else:
                assert position == Position(sum(other > scores[passage] for other in scores.values()), 1)


def test_equal_passages_across_the_depth_are_below_the_candidates(reranker: CrossEncoder) -> None:
    """Of six equal passages four are reranked; the relevant one, which is not, has the fifth or sixth rank."""
    corpus = {f"p{number}": f"{'猫' * (number + 1)}。" for number in range(6)}
    search = Search(corpus, {"q": "猫"}, {"q": {"p5": 1}})
    first = Ranked({"q": list(corpus)}, {"q": {"p5": Position(0, 6)}})
    assert Reranker(reranker, first, 4, 100).rank(search).positions == {"q": {"p5": Position(4, 2)}}


def test_scores_of_pairs_equal_plain_sentence_transformers(encoder: Any, reranker: CrossEncoder) -> None:
    pairs = list(product(QUERIES.values(), list(CORPUS.values())[:5]))
    queries, passages = (list(side) for side in zip(*pairs, strict=True))
    wanted = encoder.similarity_pairwise(encoder.encode_query(queries), encoder.encode_document(passages))
    assert pair_scores(encoder, pairs, 60) == pytest.approx(wanted.numpy(), rel=1e-4)
    assert pair_scores(reranker, pairs, 60) == pytest.approx(reranker.predict(pairs), rel=1e-4)


def test_reranker_does_not_encode_texts(reranker: CrossEncoder) -> None:
    with pytest.raises(TypeError, match="CrossEncoder"):
        rankers.ranker_of(reranker, 100)
