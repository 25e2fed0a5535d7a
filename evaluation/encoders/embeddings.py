"""Texts as unit vectors, through sentence-transformers, so that its users get the same numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.auto import register_for_modernbert, unregister_for_modernbert
from llm_jp_modernbert.inference.loading import loading_errors
from llm_jp_modernbert.inference.masked_logits import batches

from ..tasks.task import Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from .models import EvaluatedModel

POOLINGS = ("auto", "mean", "cls", "last-K-layers")
"""`auto` is a sentence-transformers model's own, and `mean` for any other; K is a number of layers."""

# The texts of a task are often those of the next one, too; more than so many are not kept.
_KEPT_TEXTS = 20_000


# Kept here, not by the models, which know nothing of embeddings; gone with them.
_embedders: WeakKeyDictionary[EvaluatedModel, dict[str, Embedder]] = WeakKeyDictionary()


def embedder_of(model: EvaluatedModel, pooling: str) -> Embedder:
    """A model as an encoder of texts, loaded once for each pooling; see `Embedder`."""
    loaded = _embedders.setdefault(model, {})
    if pooling not in loaded:
        loaded[pooling] = Embedder(model, pooling)
    return loaded[pooling]


class Embedder:
    """Encodes texts with one model.

    Args:
        model: any encoder.
        pooling: one of `POOLINGS`.

    Raises:
        UsageError: an unknown pooling, more layers than there are, or sentence-transformers is missing.
    """

    def __init__(self, model: EvaluatedModel, pooling: str = "auto") -> None:
        self.transformer = sentence_transformer(model, pooling)
        self._tokens_per_batch = model.tokens_per_batch
        self._kept: dict[str, np.ndarray] = {}

    def encode(
        self, texts: Sequence[str], prompt: str | None = None, progress: Progress = lambda share: None
    ) -> np.ndarray:
        """Unit vectors of texts; what is longer than the model reads is cut.

        Args:
            texts: any number.
            prompt: name of one of the model's own prompts, such as `query`, if it has one.
            progress: is told the share of characters that are done.

        Returns:
            float32 `(texts, dimensions)`.

        Raises:
            UsageError: an embedding is not finite.
        """
        key = hashlib.sha256("\0".join((prompt or "", *texts)).encode(errors="surrogatepass")).hexdigest()
        if key not in self._kept:
            found = self._encode(texts, prompt, progress)
            if len(texts) > _KEPT_TEXTS:
                return found
            self._kept[key] = found
        return self._kept[key]

    def _encode(self, texts: Sequence[str], prompt: str | None, progress: Progress) -> np.ndarray:
        prompts = getattr(self.transformer, "prompts", None) or {}
        written = [prompts.get(prompt or "", "") + text for text in texts]
        # Characters stand in for tokens: cutting all texts twice would cost more than uneven batches do.
        longest = self.transformer.max_seq_length or max(map(len, written))
        lengths = [min(len(text), longest) + 2 for text in written]
        order = sorted(range(len(written)), key=lambda index: -lengths[index])
        vectors: np.ndarray | None = None
        done, total = 0, sum(lengths)
        for batch in batches([lengths[index] for index in order], self._tokens_per_batch):
            indices = [order[place] for place in batch]
            # Without `prompt=""` sentence-transformers would put its default prompt before texts that have theirs.
            found = self.transformer.encode(
                [written[index] for index in indices],
                prompt="",
                batch_size=len(indices),
                show_progress_bar=False,
                normalize_embeddings=True,
                convert_to_numpy=True,
            )
            if not np.isfinite(found).all():
                raise UsageError("the model gives embeddings that are not finite. Try --dtype float32.")
            if vectors is None:
                vectors = np.empty((len(texts), found.shape[1]), np.float32)
            vectors[indices] = found
            done += sum(lengths[index] for index in indices)
            progress(done / total)
        if vectors is None:
            raise UsageError("there are no texts to encode.")
        return vectors


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

    layers = _layers(pooling)
    loading = {"dtype": getattr(torch, model.dtype)}
    common: dict[str, Any] = {"revision": model.requested} if model.requested else {}
    register_for_modernbert()
    try:
        if pooling == "auto" and model.has_file("modules.json"):
            return SentenceTransformer(model.name, device=model.which.device, model_kwargs=loading, **common).eval()
        transformer = modules.Transformer(
            model.name,
            max_seq_length=model.max_length,
            model_kwargs={**loading, **common},
            processor_kwargs=common,
            config_kwargs={"output_hidden_states": True, **common} if layers else common,
        )
    except loading_errors() as error:
        raise UsageError(f"{model.name}: cannot be loaded as an encoder. {str(error).splitlines()[0]}") from error
    finally:
        unregister_for_modernbert()
    width = transformer.get_embedding_dimension()
    parts: list[torch.nn.Module] = [transformer]
    if layers:
        depth = transformer.model.config.num_hidden_layers
        if layers > depth:
            raise UsageError(f"--pooling {pooling}: {model.name} has {depth} layers.")
        parts.append(modules.WeightedLayerPooling(width, depth, depth + 1 - layers))
    parts.append(modules.Pooling(width, pooling_mode="cls" if pooling == "cls" else "mean"))
    return SentenceTransformer(modules=parts, device=model.which.device).eval()


def _layers(pooling: str) -> int:
    """The K of `last-K-layers`, and 0 for the others."""
    if pooling in ("auto", "mean", "cls"):
        return 0
    number = pooling.removeprefix("last-").removesuffix("-layers")
    if pooling != f"last-{number}-layers" or not number.isdigit() or int(number) < 1:
        raise UsageError(f"--pooling {pooling}: choose {', '.join(POOLINGS)}, K a number from 1.")
    return int(number)
