"""Text embeddings through sentence-transformers, so that its users get the same vectors."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.inference.auto import registered_for_modernbert
from llm_jp_modernbert.inference.loading import loading_errors
from llm_jp_modernbert.inference.retrieval.encoding import Progress, Role, embed, no_progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from .models import EvaluatedModel

POOLINGS = ("auto", "mean", "cls", "last-K-layers")
"""`auto` is the pooling of a sentence-transformers model, and `mean` for others; K is a number of layers."""

# Consecutive tasks often embed the same texts; larger sets are not cached.
_MAX_CACHED_TEXTS = 20_000

_embedders: WeakKeyDictionary[EvaluatedModel, dict[str, Embedder]] = WeakKeyDictionary()


def embedder_of(model: EvaluatedModel, pooling: str) -> Embedder:
    """The `Embedder` of a model, loaded once for each pooling."""
    loaded = _embedders.setdefault(model, {})
    if pooling not in loaded:
        loaded[pooling] = Embedder(model, pooling)
    return loaded[pooling]


class Embedder:
    """Embeds texts with one model.

    Args:
        model: any encoder.
        pooling: one of `POOLINGS`.

    Raises:
        UsageError: unknown pooling, too many layers, or sentence-transformers is not installed.
    """

    def __init__(self, model: EvaluatedModel, pooling: str = "auto") -> None:
        self.transformer = sentence_transformer(model, pooling)
        self._tokens_per_batch = model.tokens_per_batch
        self._cache: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str], role: Role | None = None, progress: Progress = no_progress) -> np.ndarray:
        """Unit vectors of texts; texts longer than the model's maximum are truncated.

        Args:
            texts: any number of texts.
            role: whether the texts are questions or passages of a retrieval task, for models that distinguish them.
            progress: called with the completed share, from 0 to 1.

        Returns:
            float32 `(texts, dimensions)`.

        Raises:
            UsageError: an embedding is not finite.
        """
        if len(texts) > _MAX_CACHED_TEXTS:
            return self._encode(texts, role, progress)
        # JSON separates the texts, whatever characters they contain.
        key = hashlib.sha256(json.dumps([role, *texts]).encode()).hexdigest()
        if key not in self._cache:
            self._cache[key] = self._encode(texts, role, progress)
        return self._cache[key]

    def encode_distinct(self, examples: Sequence[Sequence[str]], progress: Progress) -> dict[str, np.ndarray]:
        """The vector of each distinct text of the examples, in order of first occurrence."""
        texts = list(dict.fromkeys(text for example in examples for text in example))
        return dict(zip(texts, self.encode(texts, progress=progress), strict=True))

    def _encode(self, texts: Sequence[str], role: Role | None, progress: Progress) -> np.ndarray:
        if not texts:
            raise UsageError("no texts to encode.")
        return embed(self.transformer, texts, role, self._tokens_per_batch, progress)


def sentence_transformer(model: EvaluatedModel, pooling: str = "auto") -> SentenceTransformer:
    """A model as a `SentenceTransformer`; `modernbert` checkpoints run as this package's class.

    Args:
        model: any encoder.
        pooling: one of `POOLINGS`.

    Raises:
        UsageError: as for `Embedder`.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import modules
    except ImportError as error:
        raise UsageError(
            "embeddings need sentence-transformers 5.4 or later: pip install 'llm-jp-modernbert[eval]'."
        ) from error
    import torch

    number = re.fullmatch(r"last-0*([1-9]\d*)-layers", pooling)
    layers = int(number[1]) if number else 0
    if not layers and pooling not in ("auto", "mean", "cls"):
        raise UsageError(f"--pooling {pooling}: choose {', '.join(POOLINGS)}, with a number K from 1.")
    if pooling == "auto" and model.type != "SentenceTransformer":
        raise UsageError(
            f"{model.label} is a {model.type}, which gives no embeddings. Measure it with --tasks retrieval, or its "
            "encoder with --pooling mean."
        )
    loading = {"dtype": getattr(torch, model.dtype)}
    common: dict[str, Any] = {"revision": model.requested} if model.requested else {}
    try:
        with registered_for_modernbert():
            if pooling == "auto" and model.has_file("modules.json"):
                return SentenceTransformer(
                    model.name, device=model.which.device, model_kwargs=loading, **common
                ).eval()
            transformer = modules.Transformer(
                model.name,
                max_seq_length=model.max_length,
                model_kwargs={**loading, **common},
                processor_kwargs=common,
                config_kwargs={"output_hidden_states": True, **common} if layers else common,
            )
    except loading_errors() as error:
        raise UsageError(f"{model.name}: cannot be loaded as an encoder. {first_line(error)}") from error
    width = transformer.get_embedding_dimension()
    parts: list[torch.nn.Module] = [transformer]
    if layers:
        depth = transformer.model.config.num_hidden_layers
        if layers > depth:
            raise UsageError(f"--pooling {pooling}: {model.name} has {depth} layers.")
        parts.append(modules.WeightedLayerPooling(width, depth, depth + 1 - layers))
    parts.append(modules.Pooling(width, pooling_mode="cls" if pooling == "cls" else "mean"))
    return SentenceTransformer(modules=parts, device=model.which.device).eval()
