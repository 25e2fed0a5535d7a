"""Measures rankings and scores of pairs, with confidence intervals, and describes the index of a model."""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from llm_jp_modernbert.core.intervals import bootstrap
from llm_jp_modernbert.inference.retrieval.encoding import Progress, Role, encoded_batches, no_progress
from llm_jp_modernbert.inference.retrieval.pairs import pair_scores
from llm_jp_modernbert.inference.retrieval.rankers import EmbeddingRanker, Ranker, SparseRanker
from llm_jp_modernbert.inference.retrieval.search import BestPassages, Ranked, Search, mean_metrics, metrics_by_query

from ..finetuning.finetune.measuring import CORRELATIONS
from .dataset import Form, Part, RetrievalData
from .options import Kind

CANDIDATES = 50
"""Number of passages that a reranker orders for each query."""

WORST = 100
"""Number of errors that are kept."""

# Texts that describe an index.
_SAMPLED = 1000


def main_metric(form: Form) -> str:
    """The metric that selects epoch and seed: nDCG@10, or Spearman's correlation for scored pairs."""
    return "spearman" if form == "scored" else "ndcg@10"


def search_of(part: Part, corpus: Iterable[str] = ()) -> Search:
    """The queries of a part, to be answered with all its passages.

    Equal texts are one query or one passage.

    Args:
        part: examples with a relevant passage each.
        corpus: further passages.
    """
    passages: dict[str, str] = {}
    queries: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    for example in part.examples:
        ids = [passages.setdefault(text, f"p{len(passages)}") for text in example.passages]
        name = queries.setdefault(example.query, f"q{len(queries)}")
        relevant.setdefault(name, {})[ids[0]] = 1
    for text in corpus:
        passages.setdefault(text, f"p{len(passages)}")
    return Search(_by_id(passages), _by_id(queries), relevant)


def _by_id(ids: Mapping[str, str]) -> dict[str, str]:
    return {name: text for text, name in ids.items()}


@dataclass(frozen=True)
class Benchmark:
    """A part of the data to measure on.

    Attributes:
        part: the part.
        corpus: further passages to search among.
    """

    part: Part
    corpus: Sequence[str] = ()

    @property
    def is_scored(self) -> bool:
        """Whether scores of pairs are compared, not rankings."""
        return self.part.form == "scored"

    @property
    def metric(self) -> str:
        """The main metric."""
        return main_metric(self.part.form)

    @property
    def size(self) -> int:
        """Number of queries or pairs."""
        return len(self.part.examples) if self.is_scored else len(self.search.queries)

    @cached_property
    def search(self) -> Search:
        """Queries and passages, unless pairs are scored."""
        return search_of(self.part, self.corpus)

    @cached_property
    def places(self) -> dict[str, str]:
        """File and row of the first example of each query."""
        examples = zip(self.part.examples, self.part.places, strict=True)
        return {example.query: place for example, place in reversed(list(examples))}

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Both texts of each scored pair."""
        return [(example.query, example.passages[0]) for example in self.part.examples]

    @cached_property
    def gold(self) -> np.ndarray:
        """Scores of the pairs."""
        return np.array([example.scores[0] for example in self.part.examples])


def benchmarks_of(data: RetrievalData) -> dict[str, Benchmark]:
    """The measured parts by name: `validation`, then `test`, or `test:NAME` for each of several."""
    parts = {"validation": Benchmark(data.validation, data.corpus)}
    for part in data.tests:
        name = "test" if len(data.tests) == 1 else f"test:{part.name}"
        parts[name if name not in parts else f"{name} ({len(parts)})"] = Benchmark(part, data.corpus)
    return parts


class Scores(ABC):
    """Metrics of a system on a part.

    Attributes:
        metrics: value of each metric, the main one first; None if undefined.
    """

    metrics: dict[str, float | None]

    @abstractmethod
    def intervals(self, seed: int) -> dict[str, tuple[float | None, float | None]]:
        """95 % confidence intervals by resampling queries or pairs.

        Args:
            seed: random seed.
        """

    @abstractmethod
    def instances(self) -> list[dict[str, Any]]:
        """The output for each query or pair."""

    @abstractmethod
    def worst(self) -> list[dict[str, Any]]:
        """The worst errors with their texts, the worst first."""


class RankingScores(Scores):
    """Metrics of rankings.

    Args:
        benchmark: a part with queries.
        ranked: rankings of its passages.
    """

    def __init__(self, benchmark: Benchmark, ranked: Ranked) -> None:
        self.search, self.places, self.ranked = benchmark.search, benchmark.places, ranked
        self.values = metrics_by_query(ranked, self.search)
        self.metrics = {name: float(np.mean(values)) for name, values in self.values.items()}

    def intervals(self, seed: int) -> dict[str, tuple[float | None, float | None]]:
        """95 % confidence intervals by resampling queries."""
        return {name: bootstrap((np.array(values),), np.mean, seed) for name, values in self.values.items()}

    def instances(self) -> list[dict[str, Any]]:
        """The first ten passages of each query, and the relevant ones."""
        top, relevant = self.ranked.top, self.search.relevant
        return [{"query": query, "top": top[query][:10], "relevant": relevant[query]} for query in self.search.queries]

    def worst(self) -> list[dict[str, Any]]:
        """The queries whose best relevant passage has the worst rank; `rank` is None if it is not among the first."""
        corpus = self.search.corpus
        errors: list[dict[str, Any]] = []
        for query, text in self.search.queries.items():
            first, positions = self.ranked.top[query][0], self.ranked.positions[query]
            best = min(positions, key=lambda passage: positions[passage], default=None)
            rank = None if best is None else positions[best].closer + 1
            if rank != 1:
                passage = best or next(iter(self.search.relevant[query]))
                error = {"query": text, "relevant": corpus[passage], "rank": rank, "first": corpus[first]}
                errors.append({"place": self.places[text], **error})
        return sorted(errors, key=lambda error: -(error["rank"] or math.inf))[:WORST]


class PairScores(Scores):
    """Correlations of the scores of pairs.

    Args:
        benchmark: a part with scored pairs.
        predicted: `(pairs,)` similarities, or scores of a reranker.
    """

    def __init__(self, benchmark: Benchmark, predicted: np.ndarray) -> None:
        self.places = benchmark.part.places
        self.pairs, self.gold, self.predicted = benchmark.pairs, benchmark.gold, predicted.astype(np.float64)
        self.is_defined = bool(np.isfinite(predicted).all()) and min(map(np.ptp, (self.gold, predicted))) > 0
        self.metrics = {
            name: float(CORRELATIONS[name](self.gold, self.predicted, axis=0)) if self.is_defined else None
            for name in ("spearman", "pearson")
        }

    def intervals(self, seed: int) -> dict[str, tuple[float | None, float | None]]:
        """95 % confidence intervals by resampling pairs."""
        if not self.is_defined:
            return {}
        return {name: bootstrap((self.gold, self.predicted), CORRELATIONS[name], seed) for name in self.metrics}

    def instances(self) -> list[dict[str, Any]]:
        """The score of each pair."""
        scores = zip(self.predicted.tolist(), self.gold.tolist(), strict=True)
        return [
            {"example": place, "prediction": predicted, "label": gold}
            for place, (predicted, gold) in enumerate(scores)
        ]

    def worst(self) -> list[dict[str, Any]]:
        """The pairs whose ranks by the model's score and by the given score differ most."""
        from scipy.stats import rankdata

        distances = np.abs(rankdata(self.gold) - rankdata(self.predicted))
        return [
            {
                "place": self.places[place],
                "text1": self.pairs[place][0],
                "text2": self.pairs[place][1],
                "score": float(self.gold[place]),
                "predicted": float(self.predicted[place]),
            }
            for place in np.argsort(-distances, kind="stable")[:WORST]
        ]


class Remembered(Ranker):
    """A ranker that ranks each dataset once.

    Args:
        ranker: the ranker.
    """

    def __init__(self, ranker: Ranker) -> None:
        self.ranker = ranker
        self._known: list[tuple[Search, Ranked]] = []

    def rank(self, search: Search, progress: Progress = no_progress) -> Ranked:
        """The best passages of each query."""
        for known, ranked in self._known:
            if known is search:
                return ranked
        self._known.append((search, self.ranker.rank(search, progress)))
        return self._known[-1][1]


def measure(
    benchmark: Benchmark,
    model: Any,
    ranker: Ranker,
    tokens_per_batch: int,
    progress: Progress = no_progress,
) -> Scores:
    """Measures a model on a part of the data.

    Args:
        benchmark: the part.
        model: model of sentence-transformers, which scores pairs.
        ranker: the ranker of the model, which ranks passages.
        tokens_per_batch: maximum tokens of a batch.
        progress: called with the completed share, from 0 to 1.

    Raises:
        UsageError: the model computes numbers that are not finite.
    """
    if benchmark.is_scored:
        return PairScores(benchmark, pair_scores(model, benchmark.pairs, tokens_per_batch, progress))
    return RankingScores(benchmark, ranker.rank(benchmark.search, progress))


def mean_of_tests(metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Means over several test datasets of the metrics that all of them have; empty for one.

    Args:
        metrics: metrics by part.
    """
    tests = [values for part, values in metrics.items() if part.startswith("test:")]
    if len(tests) < 2:
        return {}
    values = {name: [test.get(name) for test in tests] for name in tests[0]}
    defined = {name: [value for value in of_tests if value is not None] for name, of_tests in values.items()}
    return {name: statistics.fmean(numbers) for name, numbers in defined.items() if len(numbers) == len(tests)}


def ndcg_by_length(model: Any, search: Search, lengths: Iterable[int], tokens_per_batch: int) -> dict[str, float]:
    """nDCG@10 of embeddings that are truncated to several lengths.

    Args:
        model: a SentenceTransformer.
        search: queries and passages.
        lengths: numbers of dimensions.
        tokens_per_batch: maximum tokens of a batch.
    """
    ranker = EmbeddingRanker(model, tokens_per_batch)
    queries = ranker.encode(list(search.queries.values()), "query", no_progress)
    best = {length: BestPassages(search, ranker.decimals) for length in sorted(lengths)}
    passages = list(search.corpus.values())
    for start in range(0, len(passages), ranker.passages_at_once):
        vectors = ranker.encode(passages[start : start + ranker.passages_at_once], "document", no_progress)
        for length, collected in best.items():
            truncated = (_unit(embeddings[:, :length]) for embeddings in (queries, vectors))
            collected.add(ranker.scores(*truncated), first_passage=start)
    return {str(length): mean_metrics(collected.ranked(), search)["ndcg@10"] for length, collected in best.items()}


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def index_facts(kind: Kind, model: Any, benchmark: Benchmark, tokens_per_batch: int) -> dict[str, float]:
    """Size of a model's index, in float32 without compression; empty for rerankers, which have none.

    Args:
        kind: type of model.
        model: the model.
        benchmark: the first thousand of its queries and passages are encoded.
        tokens_per_batch: maximum tokens of a batch.

    Returns:
        `bytes_per_passage`; for sparse models also the mean number of non-zero dimensions, `query_active_dims` and
        `passage_active_dims`, and `flops`, the expected number of multiplications for a query and a passage
        (Paria et al. 2020, arXiv 2004.05665).
    """
    if kind == "reranker":
        return {}
    if kind == "embedder":
        return {"bytes_per_passage": 4.0 * model.get_embedding_dimension()}
    texts = zip(*benchmark.pairs, strict=True) if benchmark.is_scored else _texts(benchmark.search)
    queries, passages = (list(side)[:_SAMPLED] for side in texts)
    if kind == "late-interaction":
        batches = encoded_batches(model, passages, "document", tokens_per_batch, no_progress)
        numbers = sum(math.prod(vectors.shape) for _, batch in batches for vectors in batch)
        return {"bytes_per_passage": 4.0 * numbers / len(passages)}
    of_queries = _shares_active(model, queries, "query", tokens_per_batch)
    of_passages = _shares_active(model, passages, "document", tokens_per_batch)
    # A posting has the number of the passage and its weight.
    return {
        "bytes_per_passage": 8.0 * float(of_passages.sum()),
        "query_active_dims": float(of_queries.sum()),
        "passage_active_dims": float(of_passages.sum()),
        "flops": float(of_queries @ of_passages),
    }


def _texts(search: Search) -> tuple[Iterable[str], Iterable[str]]:
    return search.queries.values(), search.corpus.values()


def _shares_active(model: Any, texts: Sequence[str], role: Role, tokens_per_batch: int) -> np.ndarray:
    """`(vocabulary,)` share of the texts in whose vector a dimension is not zero."""
    vectors = SparseRanker(model, tokens_per_batch).encode(texts, role, no_progress)
    shares: np.ndarray = vectors.count_nonzero(axis=0) / len(texts)
    return shares
