"""Scores of pairs of texts by models of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from .encoding import NOT_FINITE, Progress, batches_by_length, no_progress


def pair_scores(
    model: Any,
    pairs: Sequence[tuple[str, str]],
    tokens_per_batch: int,
    progress: Progress = no_progress,
    **settings: Any,
) -> np.ndarray:
    """The similarity of two texts each, or a reranker's score.

    Args:
        model: a SentenceTransformer, SparseEncoder, MultiVectorEncoder or CrossEncoder.
        pairs: queries and passages.
        tokens_per_batch: maximum tokens of a batch.
        progress: called with the completed share, from 0 to 1.
        settings: further arguments of the `predict` of a reranker.

    Returns:
        float32 `(pairs,)`.

    Raises:
        UsageError: a score is not finite.
    """
    scores = np.empty(len(pairs), np.float32)
    is_reranker = hasattr(model, "predict")
    # Only rerankers truncate both texts together.
    longest = model.max_seq_length if is_reranker else None
    characters = [len(query) + len(passage) for query, passage in pairs]
    for indices in batches_by_length(characters, longest, tokens_per_batch, progress):
        batch = [pairs[index] for index in indices]
        if is_reranker:
            scores[indices] = model.predict(batch, batch_size=len(batch), show_progress_bar=False, **settings)
        else:
            scores[indices] = _similarities(model, batch)
    if not np.isfinite(scores).all():
        raise UsageError(NOT_FINITE)
    return scores


def _similarities(model: Any, pairs: list[tuple[str, str]]) -> np.ndarray:
    settings: dict[str, Any] = {"batch_size": len(pairs), "show_progress_bar": False}
    queries, passages = (list(texts) for texts in zip(*pairs, strict=True))
    vectors = (model.encode_query(queries, **settings), model.encode_document(passages, **settings))
    similarities: np.ndarray = model.similarity_pairwise(*vectors).float().cpu().numpy()
    return similarities
