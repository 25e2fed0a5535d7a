"""BM25 against its formula."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.data.options import Options
from llm_jp_modernbert.evaluation.data.readers import questions
from llm_jp_modernbert.inference.retrieval import bm25
from llm_jp_modernbert.inference.retrieval.bm25 import BM25
from llm_jp_modernbert.inference.retrieval.search import Position, Ranked, Search, mean_metrics

CORPUS = {
    "cat": "猫が好きな人は、猫と走る。",
    "dog": "犬が公園を走った。",
    "tokyo": "日本の首都は東京である。東京には皇居がある。",
    "twin": "犬が公園を走った。",
    "empty": "、。",
}


def _formula(query: list[str], passages: dict[str, list[str]]) -> dict[str, float]:
    """Lucene's BM25 with k1 = 1.5 and b = 0.75, without the factor k1 + 1 (Kamphuis et al. 2020)."""
    mean = sum(map(len, passages.values())) / len(passages)
    scores = {}
    for name, words in passages.items():
        counts, score = Counter(words), 0.0
        for word in query:
            having = sum(word in other for other in passages.values())
            idf = math.log(1 + (len(passages) - having + 0.5) / (having + 0.5))
            score += idf * counts[word] / (counts[word] + 1.5 * (1 - 0.75 + 0.75 * len(words) / mean))
        scores[name] = score
    return scores


def test_ranking_equals_formula() -> None:
    ranker = BM25()
    queries = {"run": "公園で走るのは何ですか？", "city": "首都", "unknown": "南極"}
    ranked = ranker.rank(Search(CORPUS, queries, {query: dict.fromkeys(CORPUS, 1) for query in queries}))
    words = {name: ranker.words(text) for name, text in CORPUS.items()}
    assert ranker.words(queries["run"]) == ["公園", "走る", "何"]
    for query, text in queries.items():
        scores = {name: round(score, 6) for name, score in _formula(ranker.words(text), words).items()}
        assert ranked.top[query] == sorted(CORPUS, key=lambda name: -scores[name])
        for name, position in ranked.positions[query].items():
            values = list(scores.values())
            greater = sum(value > scores[name] for value in values)
            assert position == Position(greater, values.count(scores[name]))


def test_corpus_without_words_has_no_order() -> None:
    search = Search({"a": "。", "b": ""}, {"q": "猫"}, {"q": {"b": 1}})
    assert BM25().rank(search) == Ranked({"q": ["a", "b"]}, {"q": {"b": Position(0, 2)}})


def test_texts_longer_than_the_limit_of_sudachi_are_read_whole() -> None:
    words = BM25().words("猫が走る。" * 12_000 + "犬" + "あ" * 20_000 + "鳥")
    assert (words.count("猫"), words.count("走る"), words.count("犬"), words[-1]) == (12_000, 12_000, 1, "鳥")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25, "_PACKAGES", ("a-package-that-does-not-exist",))
    with pytest.raises(UsageError, match=r"pip install 'llm-jp-modernbert\[retrieval\]'"):
        BM25()


def test_bm25_finds_the_paragraphs_of_jsquad(data_dir: Path) -> None:
    search = questions(Options(data_dir=data_dir), "jsquad").search
    first = dict(list(search.queries.items())[:300])
    search = Search(search.corpus, first, search.relevant)
    assert mean_metrics(BM25().rank(search), search)["ndcg@10"] > 0.9
