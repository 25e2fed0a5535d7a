"""Scores of a teacher for the passages of the training examples."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.progress import progress_bar
from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.core.terminal import console
from llm_jp_modernbert.inference.loading import model_revision
from llm_jp_modernbert.inference.retrieval.loading import load_retrieval_model, saved_type, type_of

from .cached import cached
from .dataset import RetrievalData
from .options import RetrievalOptions

_FILE = "teacher.json"

logger = logging.getLogger(__name__)


def score_with_teacher(
    data: RetrievalData, options: RetrievalOptions, directory: Path, tokens_per_batch: int
) -> RetrievalData:
    """Adds the scores of `--teacher` for all passages of the training examples, which makes them `distillation`.

    The scores of a reranker are its logits. The cosine similarities of an embedder are multiplied by 20, as in its
    training.

    Args:
        data: data with negatives.
        options: options of the command; without `--teacher`, the data stay as they are.
        directory: existing directory for the result, which a later call reads.
        tokens_per_batch: maximum tokens computed at once.

    Raises:
        UsageError: the teacher cannot be loaded or used.
    """
    if options.teacher is None:
        return data
    reference, train = ModelReference.parse(options.teacher), data.train
    reference.check_model()
    texts = [[example.query, *example.passages] for example in train.examples]
    name = options.teacher

    def compute() -> list[list[float]]:
        from llm_jp_modernbert.inference.retrieval.pairs import pair_scores

        model, scale = _load(reference)
        places: dict[tuple[str, str], int] = {}
        for query, *passages in texts:
            for passage in passages:
                places.setdefault((query, passage), len(places))
        logger.info(f"Scoring {len(places):,} pairs of a query and a passage with {reference.name}.")
        with progress_bar(console(), transient=True) as bar:
            task = bar.add_task("teacher", total=1.0)
            scores = pair_scores(
                model, list(places), tokens_per_batch, lambda share: bar.update(task, completed=share)
            )
        if not np.isfinite(scores).all():
            raise UsageError(f"--teacher {name}: gives scores that are not finite. Use another model.")
        values = (scale * scores).tolist()
        return [[values[places[query, passage]] for passage in passages] for query, *passages in texts]

    scores = cached(directory / _FILE, [texts, model_revision(reference)], compute)
    examples = [replace(example, scores=tuple(row)) for example, row in zip(train.examples, scores, strict=True)]
    return replace(data, train=replace(train, form="distillation", examples=examples))


def _load(reference: ModelReference) -> tuple[Any, float]:
    """A teacher, and the factor of its scores.

    Raises:
        UsageError: it is neither a reranker nor an embedder, or cannot be loaded.
    """
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from torch import nn

    from .embedder import SCALE

    if type_of(reference) == "SentenceTransformer" and saved_type(reference) is None:
        raise UsageError(f"--teacher {reference}: neither a reranker nor an embedder of sentence-transformers.")
    model = load_retrieval_model(str(reference))
    if isinstance(model, CrossEncoder):
        if model.num_labels != 1:
            raise UsageError(f"--teacher {reference}: gives {model.num_labels} scores for a pair. Name a reranker.")
        # Probabilities hardly differ between passages that are clearly relevant.
        model.activation_fn = nn.Identity()
    return model, SCALE if isinstance(model, SentenceTransformer) else 1.0
