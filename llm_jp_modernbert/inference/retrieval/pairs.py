"""Scores of pairs of texts by models of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .encoding import Progress, batches_by_length, no_progress


def pair_scores(
    model: Any, pairs: Sequence[tuple[str, str]], tokens_per_batch: int, progress: Progress = no_progress
) -> np.ndarray:
    """The similarity of two texts each, or a reranker's score.

    Args:
        model: a SentenceTransformer, SparseEncoder, MultiVectorEncoder or CrossEncoder.
        pairs: queries and passages.
        tokens_per_batch: maximum tokens of a batch.
        progress: called with the completed share, from 0 to 1.

    Returns:
        float32 `(pairs,)`.
    """
    scores = np.empty(len(pairs), np.float32)
    characters = [len(query) + len(passage) for query, passage in pairs]
    for indices in batches_by_length(characters, None, tokens_per_batch, progress):
        scores[indices] = _scores(model, [pairs[index] for index in indices])
    return scores


def _scores(model: Any, pairs: list[tuple[str, str]]) -> np.ndarray:
    from sentence_transformers import CrossEncoder

    settings = {"batch_size": len(pairs), "show_progress_bar": False}
    if isinstance(model, CrossEncoder):
        return np.asarray(model.predict(pairs, **settings))
    queries, passages = (list(texts) for texts in zip(*pairs, strict=True))
    vectors = (
        model.encode_query(queries, convert_to_tensor=True, **settings),
        model.encode_document(passages, convert_to_tensor=True, **settings),
    )
    similarities: np.ndarray = model.similarity_pairwise(*vectors).float().cpu().numpy()
    return similarities
