"""Zero-shot retrieval: how well embeddings find the passage that belongs to a question, without any training.

Paper's protocol: of passages that answer the same question, the first is the query and the second the target, among
the second ones of all. Improved: questions find passages, as users search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from ..data import readers as datasets
from ..data.readers import Search
from ..encoders.embeddings import Embedder, embedder_of
from ..report.results import Measurement
from .task import Data, Options, Outcome, Progress, Task

if TYPE_CHECKING:
    from ..encoders.models import EvaluatedModel

SOURCES = ("miracl", "jsquad", "jaquad", "beir")
"""Where questions are from; the first of them that the data folder holds is the default."""

# Passages whose embeddings are held at a time.
_CHUNK = 16_384
_DEPTH = 100

# With --limit so many passages are searched for each question, beside those that are relevant.
_PASSAGES_OF_A_QUESTION = 20


@dataclass(frozen=True)
class Retrieval(Task):
    """Attributes are the settings.

    Attributes:
        source: one of `SOURCES`; empty for the passage pairs of the paper's protocol.
        pooling: of the embeddings.
    """

    source: str = ""
    pooling: str = "auto"

    name: ClassVar[str] = "retrieval"

    @classmethod
    def for_options(cls, options: Options, source: str = "") -> Retrieval:
        """With the protocol's settings.

        Raises:
            UsageError: a source under the paper's protocol, or an unknown one.
        """
        if source and source not in SOURCES:
            raise UsageError(f"retrieval:{source}: choose retrieval:{', retrieval:'.join(SOURCES)}.")
        if options.protocol == "paper":
            if source:
                raise UsageError(f"retrieval:{source} is of the improved protocol; the paper's is plain retrieval.")
            return cls(options, "", options.pooling)
        return cls(options, source or _first_source(options), options.pooling)

    @property
    def selector(self) -> str:
        """The value of `--tasks` that selects this task."""
        return f"{self.name}:{self.source}" if self.source else self.name

    def load(self) -> Data:
        """The questions, their passages and which belong together; `examples` are the questions' ids with them."""
        if self.source:
            found = datasets.questions(self.options, self.source)
            search: Search = found.examples[0]
        else:
            found = datasets.passage_pairs(self.options)
            search = search_of_pairs(found.examples)
        limit = self.options.limit
        kept = search if limit is None else part(search, limit, _PASSAGES_OF_A_QUESTION * limit)
        return Data(found.name, found.revision, found.split, _Questions(kept))

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """nDCG@10, recall@10, recall@100 and MRR@10; the paper's protocol has recall@10 and MRR@10 alone."""
        assert isinstance(data.examples, _Questions)
        search = data.examples.search
        ranked = rank(embedder_of(model, self.pooling), search, progress, as_questions=bool(self.source))
        metrics = ("ndcg@10", "recall@10", "recall@100", "mrr@10") if self.source else ("recall@10", "mrr@10")
        by_query = {query: ranking_metrics(ranked[query], search.relevant[query]) for query in search.queries}
        measurements = [
            Measurement(metric, float(np.mean([figures[metric] for figures in by_query.values()])), scale=100)
            for metric in metrics
        ]
        instances = [
            {"query": query, "top": ranked[query][:10], "relevant": search.relevant[query]} for query in search.queries
        ]
        return Outcome(measurements, instances)


class _Questions(Sequence[Any]):
    """The questions of a search, so that their number is the number of examples."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self._ids = list(search.queries)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: Any) -> Any:
        return self._ids[index]


def part(search: Search, questions: int, others: int) -> Search:
    """A smaller search for a quick look: easier than the whole, so never to be compared with it.

    Args:
        search: the whole.
        questions: how many of its first questions are kept, with what is relevant to them.
        others: how many of its first passages that are relevant to none of these are kept as well.
    """
    queries = dict(list(search.queries.items())[:questions])
    relevant = {query: search.relevant[query] for query in queries}
    needed = {passage for grades in relevant.values() for passage in grades}
    needed.update(islice((passage for passage in search.corpus if passage not in needed), others))
    return Search({name: text for name, text in search.corpus.items() if name in needed}, queries, relevant)


def search_of_pairs(pairs: Sequence[tuple[str, str]]) -> Search:
    """Each first passage is to find its second one; equal second ones are one passage."""
    ids: dict[str, str] = {}
    for _, second in pairs:
        ids.setdefault(second, f"p{len(ids)}")
    queries = {f"q{number}": first for number, (first, _) in enumerate(pairs)}
    relevant = {f"q{number}": {ids[second]: 1} for number, (_, second) in enumerate(pairs)}
    return Search({name: text for text, name in ids.items()}, queries, relevant)


def rank(
    embedder: Embedder, search: Search, progress: Progress = lambda share: None, as_questions: bool = True
) -> dict[str, list[str]]:
    """The nearest passages of each question by cosine, the nearest first, 100 at most.

    Args:
        embedder: encodes both sides.
        search: questions and passages.
        progress: is told the share of texts that are done.
        as_questions: whether the model's own prompts for queries and documents are used, if it has any.
    """
    queries, passages = list(search.queries), list(search.corpus)
    total = len(queries) + len(passages)
    asked = embedder.encode(
        list(search.queries.values()),
        "query" if as_questions else None,
        lambda share: progress(share * len(queries) / total),
    )
    depth = min(_DEPTH, len(passages))
    scores = np.empty((len(queries), 0), np.float32)
    numbers = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(passages), _CHUNK):
        chunk = passages[start : start + _CHUNK]

        def of_chunk(share: float, start: int = start, size: int = len(chunk)) -> None:
            progress((len(queries) + start + share * size) / total)

        texts = [search.corpus[passage] for passage in chunk]
        found = asked @ embedder.encode(texts, "document" if as_questions else None, of_chunk).T
        scores = np.concatenate([scores, found], axis=1)
        numbers = np.concatenate([numbers, np.tile(np.arange(start, start + len(chunk)), (len(queries), 1))], axis=1)
        # Among equals the earlier passage goes first, whatever the chunks.
        kept = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        scores, numbers = np.take_along_axis(scores, kept, 1), np.take_along_axis(numbers, kept, 1)
    return {query: [passages[number] for number in row] for query, row in zip(queries, numbers.tolist(), strict=True)}


def ranking_metrics(ranked: Sequence[str], relevant: Mapping[str, int]) -> dict[str, float]:
    """Figures of one question.

    nDCG@10 has linear gains, grade / log2(rank + 1), as trec_eval and BEIR have (Järvelin and Kekäläinen 2002).

    Args:
        ranked: passages, the nearest first.
        relevant: grades of the relevant ones, from 1.
    """
    gains = [relevant.get(passage, 0) for passage in ranked]
    ideal = sorted(relevant.values(), reverse=True)
    first = next((place for place, gain in enumerate(gains[:10], start=1) if gain), None)
    return {
        "ndcg@10": _dcg(gains[:10]) / _dcg(ideal[:10]),
        "recall@10": sum(gain > 0 for gain in gains[:10]) / len(relevant),
        "recall@100": sum(gain > 0 for gain in gains[:100]) / len(relevant),
        "mrr@10": 1 / first if first else 0.0,
    }


def _dcg(gains: Sequence[int]) -> float:
    return float(sum(gain / np.log2(place + 1) for place, gain in enumerate(gains, start=1)))


def _first_source(options: Options) -> str:
    if options.data_dir is None:
        return SOURCES[0]
    for source in SOURCES:
        if datasets.holds(options.data_dir, source):
            return source
    raise UsageError(
        f"--data-dir {options.data_dir} holds no questions with passages: neither MIRACL with its passages, nor "
        "JSQuAD, JaQuAD or a folder in BEIR's layout."
    )
