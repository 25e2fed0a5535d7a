"""Zero-shot retrieval: how well embeddings find the passages that answer a question, without fine-tuning.

Paper's protocol: of two passages that answer the same question, the first is the query and the second the target,
among the second passages of all questions. Default protocol: questions retrieve passages, as users search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.results import RERANKED, Measurement
from llm_jp_modernbert.inference.retrieval.bm25 import BM25
from llm_jp_modernbert.inference.retrieval.rankers import EmbeddingRanker, Ranker, Reranker, ranker_of
from llm_jp_modernbert.inference.retrieval.search import Search, mean_metrics

from ..data import readers
from ..data.options import Data, Options
from ..data.readers import SOURCES, SearchData
from ..encoders.embeddings import embedder_of
from ..encoders.models import EvaluatedModel, ModelName
from .task import Highlight, Outcome, Progress, Task

# Number of passages that a reranker orders.
_CANDIDATES = 50

_METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10")
_PAPER_METRICS = ("recall@10", "mrr@10")

# Passages per question added to the relevant ones with --limit.
_DISTRACTORS = 20


@dataclass(frozen=True)
class Retrieval(Task):
    """Ranking of passages.

    Embedders rank by cosine similarity, sparse models by dot products and late-interaction models by MaxSim. Rerankers
    order the first passages of another model.

    Attributes:
        source: one of `SOURCES`; empty for the passage pairs of the paper's protocol.
        pooling: pooling of the embeddings.
    """

    source: str = ""
    pooling: str = "auto"

    name = "retrieval"
    needs_weights = False
    hub_task = "sentence-similarity"
    highlights = (Highlight("ndcg@10", "Retrieval nDCG@10"),)

    @classmethod
    def selectors(cls) -> tuple[str, ...]:
        """`retrieval`, and `retrieval:SOURCE` for each source."""
        return (cls.name, *(f"{cls.name}:{source}" for source in SOURCES))

    @classmethod
    def select(cls, selector: str) -> Sequence[Callable[[Options], Task]]:
        """The task with the source that the selector names."""
        if selector not in cls.selectors():
            raise UsageError(f"--tasks {selector}: no such task. Choose from {', '.join(cls.selectors())}.")
        return [partial(cls.for_options, source=selector.partition(":")[2])]

    @classmethod
    def for_options(cls, options: Options, source: str = "") -> Retrieval:
        """The settings of the protocol.

        Raises:
            UsageError: a source with the paper's protocol, or no dataset in the data folder.
        """
        if options.protocol == "paper":
            if source:
                raise UsageError(f"retrieval:{source} needs --protocol default; the paper's task is retrieval.")
        elif not source and options.data_dir is None:
            source = "miracl"
        elif not source and options.data_dir is not None:
            source = next((name for name in SOURCES if readers.files_below(options.data_dir, SOURCES[name])), "")
            if not source:
                raise UsageError(
                    f"--data-dir {options.data_dir} contains no questions with passages: neither MIRACL with its "
                    "passages, nor JSQuAD, JaQuAD or a folder in BEIR's layout."
                )
        return cls(options, source, options.pooling)

    @property
    def selector(self) -> str:
        return f"{self.name}:{self.source}" if self.source else self.name

    def load(self) -> SearchData:
        """The ids of the questions, with their passages."""
        data: Data
        if self.source:
            data = readers.questions(self.options, self.source)
            search = data.search
        else:
            data = readers.passage_pairs(self.options)
            search = search_of_pairs(data.examples)
        if self.options.limit is not None:
            search = subset(search, self.options.limit, _DISTRACTORS * self.options.limit)
        return SearchData(data.name, data.revision, data.split, list(search.queries), search=search)

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """nDCG@10, recall@10, recall@100 and MRR@10; only recall@10 and MRR@10 in the paper's protocol."""
        assert isinstance(data, SearchData)
        search = data.search
        ranked = self._ranker(model).rank(search, progress)
        values = mean_metrics(ranked, search)
        metrics = _METRICS if self.source else _PAPER_METRICS
        measurements = [Measurement(metric, values[metric], scale=100) for metric in metrics]
        instances = [
            {"query": query, "top": ranked.top[query][:10], "relevant": search.relevant[query]}
            for query in search.queries
        ]
        return Outcome(measurements, instances)

    def settings_of(self, model: EvaluatedModel) -> dict[str, Any]:
        """All settings, for rerankers with the model whose passages they order."""
        settings = super().settings_of(model)
        if self._is_reranker(model):
            first = self._candidates(model)
            settings[RERANKED] = f"top {_CANDIDATES} of {first.label}"
            settings[f"{RERANKED}_revision"] = ", ".join(filter(None, (first.revision, first.embedding_files)))
        return settings

    def _ranker(self, model: EvaluatedModel) -> Ranker:
        if model.is_bm25:
            return BM25()
        with_roles = bool(self.source)
        if self.pooling != "auto" or model.type == "SentenceTransformer":
            embedder = embedder_of(model, self.pooling)
            return EmbeddingRanker(embedder.transformer, model.tokens_per_batch, with_roles)
        if self._is_reranker(model):
            return Reranker(model.load(), self._ranker(self._candidates(model)), _CANDIDATES, model.tokens_per_batch)
        return ranker_of(model.load(), model.tokens_per_batch, with_roles)

    def _is_reranker(self, model: EvaluatedModel) -> bool:
        return self.pooling == "auto" and model.type == "CrossEncoder"

    def _candidates(self, reranker: EvaluatedModel) -> EvaluatedModel:
        """The model whose passages a reranker orders.

        Raises:
            UsageError: it is a reranker itself.
        """
        which = ModelName.parse(self.options.candidates)
        computing = {name: getattr(reranker.which, name) for name in ("device", "dtype", "tokens_per_batch")}
        model = EvaluatedModel(replace(which, **computing))
        if self._is_reranker(model):
            raise UsageError(f"--candidates {which.name}: is a reranker. Give a model that searches, or bm25.")
        return model


def subset(search: Search, questions: int, distractors: int) -> Search:
    """A small, easier dataset for a quick look; its values are not comparable with the whole.

    Args:
        search: the whole dataset.
        questions: number of questions kept, from the beginning, with their relevant passages.
        distractors: number of other passages kept, from the beginning.
    """
    queries = dict(list(search.queries.items())[:questions])
    relevant = {query: search.relevant[query] for query in queries}
    needed = {passage for grades in relevant.values() for passage in grades}
    needed.update(islice((passage for passage in search.corpus if passage not in needed), distractors))
    return Search({name: text for name, text in search.corpus.items() if name in needed}, queries, relevant)


def search_of_pairs(pairs: Sequence[tuple[str, str]]) -> Search:
    """A dataset in which each first passage retrieves its second one; equal second passages are one passage."""
    ids: dict[str, str] = {}
    for _, second in pairs:
        ids.setdefault(second, f"p{len(ids)}")
    queries = {f"q{number}": first for number, (first, _) in enumerate(pairs)}
    relevant = {f"q{number}": {ids[second]: 1} for number, (_, second) in enumerate(pairs)}
    return Search({name: text for text, name in ids.items()}, queries, relevant)
