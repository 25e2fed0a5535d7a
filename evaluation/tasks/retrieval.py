"""Zero-shot retrieval: how well embeddings find the passages that answer a question, without fine-tuning.

Paper's protocol: of two passages that answer the same question, the first is the query and the second the target,
among the second passages of all questions. Default protocol: questions retrieve passages, as users search.

Passages of equal similarity have no order: a metric is its mean over all orders of them (McSherry and Najork 2008,
"Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.results import Measurement

from ..data import readers
from ..data.options import Data, Options
from ..data.readers import SOURCES, Search, SearchData
from ..encoders.embeddings import Embedder, embedder_of
from .task import Highlight, Outcome, Progress, Task

if TYPE_CHECKING:
    from ..encoders.models import EvaluatedModel

# Passages embedded at a time.
_CHUNK = 16_384
_DEPTH = 100

# Float32 similarities of equal texts in different batches differ in the last digits.
_DECIMALS = 6

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
        ranked, positions = rank(embedder_of(model, self.pooling), search, progress, as_questions=bool(self.source))
        values = ranking_metrics(positions, search.relevant)
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


class Position(NamedTuple):
    """Position of a passage in the ranking of a question.

    Attributes:
        closer: number of passages with a greater similarity.
        equal: number of passages with the same similarity, itself included.
    """

    closer: int
    equal: int


def rank(
    embedder: Embedder, search: Search, progress: Progress = lambda share: None, as_questions: bool = True
) -> tuple[dict[str, list[str]], dict[str, dict[str, Position]]]:
    """Ranks passages by cosine similarity, the closest first.

    Args:
        embedder: embeds both sides.
        search: questions and passages.
        progress: called with the completed share of texts.
        as_questions: whether to use the model's prompts for queries and documents, if it has any.

    Returns:
        At most 100 passages per question, and the position of each relevant passage that can be among them.
    """
    queries, passages = list(search.queries), list(search.corpus)
    total = len(queries) + len(passages)
    query_vectors = embedder.encode(
        list(search.queries.values()),
        "query" if as_questions else None,
        lambda share: progress(share * len(queries) / total),
    )
    best = _Best.of(len(queries), min(_DEPTH, len(passages)))
    relevant_scores: list[dict[str, float]] = [{} for _ in queries]
    for start in range(0, len(passages), _CHUNK):
        chunk = passages[start : start + _CHUNK]

        def report(share: float, start: int = start, size: int = len(chunk)) -> None:
            progress((len(queries) + start + share * size) / total)

        texts = [search.corpus[passage] for passage in chunk]
        vectors = embedder.encode(texts, "document" if as_questions else None, report)
        scores = np.round(query_vectors @ vectors.T, _DECIMALS)
        best = best.merged(scores, start)
        columns = {passage: column for column, passage in enumerate(chunk)}
        for query, row, known in zip(queries, scores, relevant_scores, strict=True):
            known |= {passage: row[columns[passage]] for passage in search.relevant.get(query, {}).keys() & columns}
    ranked = {query: [passages[place] for place in row] for query, row in zip(queries, best.places, strict=True)}
    positions = {
        query: {
            passage: best.position(row, score) for passage, score in known.items() if score >= best.scores[row, -1]
        }
        for row, (query, known) in enumerate(zip(queries, relevant_scores, strict=True))
    }
    return ranked, positions


@dataclass(frozen=True)
class _Best:
    """The passages with the greatest scores of each question; arrays `(questions, depth)`, the greatest first.

    Attributes:
        scores: their scores.
        places: their places in the corpus.
        last_ties: `(questions, 1)` number of all passages with the last score, including those beyond the depth.
    """

    scores: np.ndarray
    places: np.ndarray
    last_ties: np.ndarray

    @classmethod
    def of(cls, questions: int, depth: int) -> _Best:
        """Before the first passage."""
        scores = np.full((questions, depth), -np.inf, np.float32)
        return cls(scores, np.zeros((questions, depth), np.int64), np.zeros((questions, 1), np.int64))

    def merged(self, added: np.ndarray, start: int) -> _Best:
        """With the scores `(questions, passages)` of further passages, the first of which is at `start`."""
        scores = np.concatenate([self.scores, added], axis=1)
        added_places = np.broadcast_to(start + np.arange(added.shape[1]), added.shape)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.scores.shape[1]]
        scores = np.take_along_axis(scores, best, 1)
        places = np.take_along_axis(np.concatenate([self.places, added_places], axis=1), best, 1)
        last = scores[:, -1:]
        # Passages beyond the depth count as long as the last score stays the same.
        known = np.where(self.scores[:, -1:] == last, self.last_ties, (self.scores == last).sum(1, keepdims=True))
        return _Best(scores, places, known + (added == last).sum(1, keepdims=True))

    def position(self, row: int, score: float) -> Position:
        """Position of a passage by its score, which is at least the last one."""
        scores = self.scores[row]
        equal = self.last_ties[row, 0] if score == scores[-1] else (scores == score).sum()
        return Position(int((scores > score).sum()), int(equal))


def ranking_metrics(
    positions: Mapping[str, Mapping[str, Position]], relevant: Mapping[str, Mapping[str, int]]
) -> dict[str, float]:
    """Means over questions of nDCG@10, recall@10, recall@100 and MRR@10, and over the orders of equal passages.

    nDCG has linear gains like trec_eval and BEIR: grade / log2(rank + 1) (Järvelin and Kekäläinen 2002).

    Args:
        positions: for each question, the positions of the relevant passages; passages without one are not retrieved.
        relevant: for each question, the grade (1 or higher) of each relevant passage.
    """
    # Sums of the discounts of the first ranks, from no rank to 10.
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, 12)))])
    values: dict[str, list[float]] = {"ndcg@10": [], "recall@10": [], "recall@100": [], "mrr@10": []}
    for query, found in positions.items():
        grades = relevant[query]
        gain = sum(
            grades[passage] * (discounts[min(10, closer + equal)] - discounts[min(10, closer)]) / equal
            for passage, (closer, equal) in found.items()
        )
        ideal = np.sort(list(grades.values()))[::-1][:10] @ np.diff(discounts)[: len(grades)]
        values["ndcg@10"].append(float(gain / ideal))
        for depth in (10, 100):
            shares = (min(1.0, max(0, depth - closer) / equal) for closer, equal in found.values())
            values[f"recall@{depth}"].append(sum(shares) / len(grades))
        values["mrr@10"].append(_reciprocal_rank(list(found.values())))
    return {metric: float(np.mean(numbers)) for metric, numbers in values.items()}


def _reciprocal_rank(positions: Sequence[Position]) -> float:
    """Mean of 1 / rank of the first relevant passage over the orders of equal passages; 0 beyond rank 10."""
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
