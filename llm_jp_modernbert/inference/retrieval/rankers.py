"""Rankings of passages by models of sentence-transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from .encoding import NOT_FINITE, Progress, Role, embed, encoded_batches, no_progress
from .pairs import pair_scores
from .search import BestPassages, Position, Ranked, Search

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
    from torch import Tensor


# Logits in memory at a time.
_LOGITS = 2**27


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


class SparseRanker(EncoderRanker):
    """Ranks passages by the dot product of the vectors of a `SparseEncoder`, or by cosine similarity if it says so."""

    model: SparseEncoder
    # Before training, most dimensions of a vector are not zero.
    passages_at_once = 1024

    def encode(self, texts: Sequence[str], role: Role | None, progress: Progress) -> csr_array:
        """Sparse vectors."""
        from scipy.sparse import csr_array, vstack

        # The vocabulary head computes a logit for each token of the batch and of the vocabulary.
        tokens = min(self.tokens_per_batch, _LOGITS // (self.model.get_embedding_dimension() or 1))
        places, parts = [], []
        for indices, encoded in encoded_batches(self.model, texts, role, tokens, progress):
            encoded = encoded.float().coalesce().cpu()
            parts.append(csr_array((encoded.values().numpy(), encoded.indices().numpy()), tuple(encoded.shape)))
            places += indices
        vectors = vstack(parts, format="csr")[np.argsort(places)]
        if not np.isfinite(vectors.data).all():
            raise UsageError(NOT_FINITE)
        if self.model.similarity_fn_name == "cosine":
            from sklearn.preprocessing import normalize

            vectors = normalize(vectors)
        return vectors

    def scores(self, queries: csr_array, passages: csr_array) -> np.ndarray:
        """Dot products."""
        products: np.ndarray = (queries @ passages.T).toarray()
        return products


class LateInteractionRanker(EncoderRanker):
    """Ranks passages by MaxSim of the token vectors of a `MultiVectorEncoder` (Khattab and Zaharia 2020).

    Each query is compared with each passage: the cost grows with the tokens of all queries times the tokens of all
    passages. The thousand passages of JSQuAD take minutes on a CPU; a corpus of millions needs a GPU.
    """

    model: MultiVectorEncoder
    # A passage has as many vectors as tokens.
    passages_at_once = 256

    def encode(self, texts: Sequence[str], role: Role | None, progress: Progress) -> list[Tensor]:
        """For each text a tensor `(tokens, dimensions)` on the model's device."""
        vectors: dict[int, Tensor] = {}
        for indices, encoded in encoded_batches(self.model, texts, role, self.tokens_per_batch, progress):
            vectors |= zip(indices, encoded, strict=True)
        return [vectors[place] for place in range(len(texts))]

    def scores(self, queries: list[Tensor], passages: list[Tensor]) -> np.ndarray:
        """Sums over the tokens of a query of the greatest similarity to a token of the passage."""
        scores: np.ndarray = self.model.similarity(queries, passages).cpu().numpy()
        if not np.isfinite(scores).all():
            raise UsageError(NOT_FINITE)
        return scores


class Reranker(Ranker):
    """Orders the first passages of other rankings by the scores of a `CrossEncoder`.

    Passages beyond `depth` keep their order, below the others.

    Args:
        model: the reranker; a model of one label.
        first: the rankings, or the ranker that makes them.
        depth: number of passages of each query that the reranker orders, at most 100.
        tokens_per_batch: maximum tokens of a batch.
    """

    decimals = 4

    def __init__(self, model: CrossEncoder, first: Ranked | Ranker, depth: int = 50, tokens_per_batch: int = 4096):
        self.model, self.first = model, first
        self.depth, self.tokens_per_batch = depth, tokens_per_batch

    def rank(self, search: Search, progress: Progress = no_progress) -> Ranked:
        """The best passages of each query."""
        import torch

        first, before = self.first, 0.0
        if isinstance(first, Ranker):
            # Scoring pairs takes most of the time.
            before = 0.1
            first = first.rank(search, lambda share: progress(before * share))
        candidates = {query: first.top[query][: self.depth] for query in search.queries}
        pairs = [
            (search.queries[query], search.corpus[passage])
            for query, passages in candidates.items()
            for passage in passages
        ]
        # Sigmoids of great logits are equal.
        settings = {"activation_fn": torch.nn.Identity()}
        scores = iter(
            pair_scores(
                self.model,
                pairs,
                self.tokens_per_batch,
                lambda share: progress(before + (1 - before) * share),
                **settings,
            )
        )
        reranked = Ranked({}, {})
        for query, passages in candidates.items():
            of_query = np.array(list(islice(scores, len(passages)))).round(self.decimals)
            order = np.argsort(-of_query, kind="stable")
            reranked.top[query] = [passages[place] for place in order] + first.top[query][self.depth :]
            known = dict(zip(passages, of_query, strict=True))
            reranked.positions[query] = {
                passage: _position(known[passage], of_query) if passage in known else _below(position, len(passages))
                for passage, position in first.positions[query].items()
            }
        return reranked


def _position(score: float, scores: np.ndarray) -> Position:
    return Position(int((scores > score).sum()), int((scores == score).sum()))


def _below(position: Position, candidates: int) -> Position:
    """The position of a passage after the candidates, some of which can be equal to it in the first ranking."""
    closer = max(position.closer, candidates)
    return Position(closer, position.closer + position.equal - closer)


# By class of sentence-transformers.
_RANKERS: dict[str, type[EncoderRanker]] = {
    "SparseEncoder": SparseRanker,
    "MultiVectorEncoder": LateInteractionRanker,
    "SentenceTransformer": EmbeddingRanker,
}


def ranker_of(model: Any, tokens_per_batch: int, with_roles: bool = True) -> EncoderRanker:
    """The ranker of a loaded model of sentence-transformers.

    Args:
        model: a SentenceTransformer, SparseEncoder or MultiVectorEncoder.
        tokens_per_batch: maximum tokens of a batch.
        with_roles: whether to use the model's prompts and modules for queries and passages, if it has any.

    Raises:
        TypeError: another type of model.

    Example:
        >>> ranker = ranker_of(SentenceTransformer("ORG/EMBEDDER"), tokens_per_batch=4096)
        >>> mean_metrics(ranker.rank(search), search)["ndcg@10"]
        0.93
    """
    classes = [base.__name__ for base in type(model).__mro__]
    for name, ranker in _RANKERS.items():
        if name in classes:
            return ranker(model, tokens_per_batch, with_roles)
    raise TypeError(f"{type(model).__name__} does not encode texts")
