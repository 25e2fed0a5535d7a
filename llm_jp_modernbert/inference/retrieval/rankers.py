"""Rankings of passages by models of sentence-transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from .encoding import Progress, Role, embed, no_progress
from .search import BestPassages, Ranked, Search

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Ranker(ABC):
    """Ranks the passages of a retrieval dataset for each of its queries."""

    @abstractmethod
    def rank(self, search: Search, progress: Progress = no_progress) -> Ranked:
        """The best passages of each query.

        Args:
            search: queries and passages.
            progress: called with the completed share, from 0 to 1.
        """


class EncoderRanker(Ranker):
    """Compares vectors of queries with those of passages.

    Vectors of a part of the passages are in memory at a time, so that a corpus has any size.

    Args:
        model: a model of sentence-transformers.
        tokens_per_batch: maximum tokens of a batch.
        with_roles: whether to use the model's prompts and modules for queries and passages, if it has any.
    """

    passages_at_once = 16_384
    """Number of passages of a part."""

    queries_at_once = 512
    """Number of queries whose scores are in memory at a time."""

    decimals = 4
    """Decimal places of scores that are compared."""

    def __init__(self, model: Any, tokens_per_batch: int, with_roles: bool = True) -> None:
        self.model = model
        self.tokens_per_batch = tokens_per_batch
        self._roles: tuple[Role | None, Role | None] = ("query", "document") if with_roles else (None, None)

    def rank(self, search: Search, progress: Progress = no_progress) -> Ranked:
        """The best passages of each query."""
        of_query, of_passage = self._roles
        done, total = len(search.queries), len(search.queries) + len(search.corpus)
        queries = self.encode(list(search.queries.values()), of_query, lambda share: progress(share * done / total))
        best = BestPassages(search, self.decimals)
        for start, texts in self._parts(search):

            def report(share: float, before: int = done + start, size: int = len(texts)) -> None:
                progress((before + share * size) / total)

            passages = self.encode(texts, of_passage, report)
            for first in range(0, done, self.queries_at_once):
                scores = self.scores(queries[first : first + self.queries_at_once], passages)
                best.add(scores, first, start)
        return best.ranked()

    def _parts(self, search: Search) -> Iterator[tuple[int, list[str]]]:
        texts, start = iter(search.corpus.values()), 0
        while part := list(islice(texts, self.passages_at_once)):
            yield start, part
            start += len(part)

    @abstractmethod
    def encode(self, texts: Sequence[str], role: Role | None, progress: Progress) -> Any:
        """Vectors of texts, in a form that `scores` reads."""

    @abstractmethod
    def scores(self, queries: Any, passages: Any) -> np.ndarray:
        """float32 `(queries, passages)`."""


class EmbeddingRanker(EncoderRanker):
    """Ranks passages by cosine similarity of a `SentenceTransformer`."""

    model: SentenceTransformer
    decimals = 6

    def encode(self, texts: Sequence[str], role: Role | None, progress: Progress) -> np.ndarray:
        """Unit vectors."""
        return embed(self.model, texts, role, self.tokens_per_batch, progress)

    def scores(self, queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """Cosine similarities."""
        similarities: np.ndarray = queries @ passages.T
        return similarities


def ranker_of(model: Any, tokens_per_batch: int) -> EncoderRanker:
    """The ranker of a loaded model of sentence-transformers.

    Args:
        model: the model.
        tokens_per_batch: maximum tokens of a batch.

    Raises:
        TypeError: the model does not encode texts.
    """
    from sentence_transformers import SentenceTransformer

    if isinstance(model, SentenceTransformer):
        return EmbeddingRanker(model, tokens_per_batch)
    raise TypeError(f"{type(model).__name__} does not encode texts")
