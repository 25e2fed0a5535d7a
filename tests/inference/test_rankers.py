"""Rankings by each type of model, against plain sentence-transformers."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from evaluation_data import PLACES, SUBJECTS
from sentence_transformers import SentenceTransformer

from llm_jp_modernbert.inference.retrieval import rankers
from llm_jp_modernbert.inference.retrieval import search as search_module
from llm_jp_modernbert.inference.retrieval.search import Search, mean_metrics

CORPUS = {f"p{number}": f"{one}が{place}に行く。" for number, (one, place) in enumerate(product(SUBJECTS, PLACES))}
QUERIES = {"q0": "猫が駅に行く。", "q1": "母が海に着く。"}


def test_chunked_ranking_equals_ranking_of_all_passages(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small parts, so that the best passages are merged from several.
    monkeypatch.setattr(rankers.EncoderRanker, "passages_at_once", 5)
    monkeypatch.setattr(rankers.EncoderRanker, "queries_at_once", 1)
    monkeypatch.setattr(search_module, "DEPTH", 7)
    corpus = {**CORPUS, "twin": CORPUS["p3"]}
    plain = SentenceTransformer(str(modernbert), device="cpu")
    ranked = rankers.ranker_of(plain, tokens_per_batch=200).rank(Search(corpus, QUERIES, {}))
    names = list(corpus)
    for query, text in QUERIES.items():
        cosines = plain.similarity(plain.encode(text), plain.encode(list(corpus.values())))[0].tolist()
        wanted = sorted(range(len(names)), key=lambda index: -round(cosines[index], 6))[:7]
        assert [cosines[names.index(name)] for name in ranked.top[query]] == pytest.approx(
            [cosines[index] for index in wanted], abs=1e-5
        )


def test_equal_passages_share_their_ranks(modernbert: Path) -> None:
    """The relevant passage is first in half of the orders."""
    search = Search({"relevant": "猫が駅に行く。", "twin": "猫が駅に行く。"}, {"q": "猫"}, {"q": {"relevant": 1}})
    ranked = rankers.ranker_of(SentenceTransformer(str(modernbert), device="cpu"), 4096).rank(search)
    assert ranked.positions == {"q": {"relevant": (0, 2)}}
    assert mean_metrics(ranked, search)["mrr@10"] == (1 + 1 / 2) / 2
