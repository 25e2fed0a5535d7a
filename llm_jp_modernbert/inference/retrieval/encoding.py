"""Vectors of many texts with models of sentence-transformers, in batches by tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from ..masked_logits import batches

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Role = Literal["query", "document"]
"""Whether a text is a query or a passage, for models that distinguish them."""

Progress = Callable[[float], None]
"""Called with the completed share of the work, from 0 to 1."""

NOT_FINITE = "the model gives embeddings that are not finite. Try --dtype float32."


def no_progress(share: float) -> None:
    """Ignores the progress."""


def embed(
    model: SentenceTransformer,
    texts: Sequence[str],
    role: Role | None,
    tokens_per_batch: int,
    progress: Progress = no_progress,
) -> np.ndarray:
    """Unit vectors of texts; texts longer than the model's maximum are truncated.

    Args:
        model: the model.
        texts: one or more texts.
        role: selects the model's prompt and modules; None for neither queries nor passages.
        tokens_per_batch: maximum tokens of a batch.
        progress: called with the completed share.

    Returns:
        float32 `(texts, dimensions)`.

    Raises:
        UsageError: an embedding is not finite.
    """
    vectors = np.empty((len(texts), 0), np.float32)
    settings = {"normalize_embeddings": True, "convert_to_numpy": True}
    for indices, encoded in encoded_batches(model, texts, role, tokens_per_batch, progress, **settings):
        if not np.isfinite(encoded).all():
            raise UsageError(NOT_FINITE)
        if not vectors.size:
            vectors = np.empty((len(texts), encoded.shape[1]), np.float32)
        vectors[indices] = encoded
    return vectors


def encoded_batches(
    model: Any, texts: Sequence[str], role: Role | None, tokens_per_batch: int, progress: Progress, **settings: Any
) -> Iterator[tuple[list[int], Any]]:
    """Encodes texts in batches of similar lengths.

    Args:
        model: a SentenceTransformer, SparseEncoder or MultiVectorEncoder.
        texts: the texts.
        role: as in `embed`.
        tokens_per_batch: maximum tokens of a batch.
        progress: called with the completed share.
        settings: further arguments of the model's `encode`.

    Yields:
        The places of the texts of a batch, and what `encode` returns for them.
    """
    # They add the prompts of the model, and choose its modules.
    encode = {"query": model.encode_query, "document": model.encode_document, None: model.encode}[role]
    prompt = max((len(text or "") for text in model.prompts.values()), default=0)
    for indices in batches_by_length(
        [prompt + len(text) for text in texts], model.max_seq_length, tokens_per_batch, progress
    ):
        batch = [texts[index] for index in indices]
        yield indices, encode(batch, batch_size=len(batch), show_progress_bar=False, **settings)


def batches_by_length(
    characters: Sequence[int], max_length: int | None, tokens_per_batch: int, progress: Progress
) -> Iterator[list[int]]:
    """Batches of texts of similar lengths, the longest first.

    Args:
        characters: length of each text.
        max_length: maximum number of tokens of a text; longer ones are truncated.
        tokens_per_batch: maximum tokens of a batch.
        progress: called with the completed share after each batch.

    Yields:
        The places of the texts of a batch.
    """
    # Characters approximate tokens: tokenising twice would cost more than uneven batches.
    lengths = [min(length, max_length or length) + 2 for length in characters]
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    done, total = 0, sum(lengths)
    for batch in batches([lengths[index] for index in order], tokens_per_batch):
        indices = [order[place] for place in batch]
        yield indices
        done += sum(lengths[index] for index in indices)
        progress(done / total)
