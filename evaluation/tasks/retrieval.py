"""Zero-shot retrieval: how well embeddings find the passages that answer a question, without fine-tuning.

Paper's protocol: of two passages that answer the same question, the first is the query and the second the target,
among the second passages of all questions. Default protocol: questions retrieve passages, as users search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from ..data import readers
from ..data.options import Data, Options
from ..data.readers import SOURCES, Search, SearchData
from ..encoders.embeddings import Embedder, embedder_of
from ..report.results import Measurement
from .task import Highlight, Outcome, Progress, Task

if TYPE_CHECKING:
    from ..encoders.models import EvaluatedModel

# Passages embedded at a time.
_CHUNK = 16_384
_DEPTH = 100

# Passages per question added to the relevant ones with --limit.
_DISTRACTORS = 20


@dataclass(frozen=True)
class Retrieval(Task):
    """Ranking of passages by cosine similarity.

    Attributes:
        source: one of `SOURCES`; empty for the passage pairs of the paper's protocol.
        pooling: pooling of the embeddings.
    """

    source: str = ""
    pooling: str = "auto"

    name = "retrieval"
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
        ranked = rank(embedder_of(model, self.pooling), search, progress, as_questions=bool(self.source))
        values = ranking_metrics(ranked, search.relevant)
        metrics = values if self.source else ("recall@10", "mrr@10")
        measurements = [Measurement(metric, values[metric], scale=100) for metric in metrics]
        instances = [
            {"query": query, "top": ranked[query][:10], "relevant": search.relevant[query]} for query in search.queries
        ]
        return Outcome(measurements, instances)


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


def rank(
    embedder: Embedder, search: Search, progress: Progress = lambda share: None, as_questions: bool = True
) -> dict[str, list[str]]:
    """At most 100 passages per question by cosine similarity, the closest first.

    Equal similarities are ordered by place in the corpus, whether a passage is relevant or not.

    Args:
        embedder: embeds both sides.
        search: questions and passages.
        progress: called with the completed share of texts.
        as_questions: whether to use the model's prompts for queries and documents, if it has any.
    """
    queries, passages = list(search.queries), list(search.corpus)
    total = len(queries) + len(passages)
    query_vectors = embedder.encode(
        list(search.queries.values()),
        "query" if as_questions else None,
        lambda share: progress(share * len(queries) / total),
    )
    depth = min(_DEPTH, len(passages))
    scores = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(passages), _CHUNK):
        texts = [search.corpus[passage] for passage in passages[start : start + _CHUNK]]

        def report(share: float, start: int = start, size: int = len(texts)) -> None:
            progress((len(queries) + start + share * size) / total)

        vectors = embedder.encode(texts, "document" if as_questions else None, report)
        scores = np.concatenate([scores, query_vectors @ vectors.T], axis=1)
        chunk = np.arange(start, start + len(texts))
        places = np.concatenate([places, np.tile(chunk, (len(queries), 1))], axis=1)
        # A stable sort keeps equal scores in the order of the corpus.
        best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        scores, places = np.take_along_axis(scores, best, 1), np.take_along_axis(places, best, 1)
    return {query: [passages[place] for place in row] for query, row in zip(queries, places.tolist(), strict=True)}


def ranking_metrics(
    rankings: Mapping[str, Sequence[str]], relevant: Mapping[str, Mapping[str, int]]
) -> dict[str, float]:
    """Means over questions of nDCG@10, recall@10, recall@100 and MRR@10.

    nDCG has linear gains like trec_eval and BEIR: grade / log2(rank + 1) (Järvelin and Kekäläinen 2002).

    Args:
        rankings: for each question, passages with the best first, without ties.
        relevant: for each question, the grade (1 or higher) of each relevant passage.
    """
    from sklearn.metrics import ndcg_score

    depth = max(len(ranking) for ranking in rankings.values())
    # Columns: the ranked passages, then the relevant ones that were not retrieved; scikit-learn needs two or more.
    gains = np.zeros((len(rankings), depth + max(map(len, relevant.values())) + 1))
    for row, (query, ranking) in zip(gains, rankings.items(), strict=True):
        grades = dict(relevant[query])
        row[: len(ranking)] = [grades.pop(passage, 0) for passage in ranking]
        row[depth : depth + len(grades)] = list(grades.values())
    descending = np.broadcast_to(-np.arange(gains.shape[1]), gains.shape)
    hits = gains[:, :depth] > 0
    relevant_counts = (gains > 0).sum(1)
    top = hits[:, :10]
    return {
        "ndcg@10": float(ndcg_score(gains, descending, k=10, ignore_ties=True)),
        "recall@10": float((top.sum(1) / relevant_counts).mean()),
        "recall@100": float((hits[:, :100].sum(1) / relevant_counts).mean()),
        "mrr@10": float(np.where(top.any(1), 1 / (top.argmax(1) + 1), 0).mean()),
    }
