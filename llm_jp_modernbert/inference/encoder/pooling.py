"""Vectors of documents from the hidden states of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.files import read_json
from llm_jp_modernbert.core.references import ModelReference

from ..loading import loading_errors
from ..retrieval.layout import MODULES, SETTINGS, TRANSFORMER_SETTINGS, Module
from ..retrieval.loading import model_file

if TYPE_CHECKING:
    import torch

Pooling = Literal["mean", "cls"]
"""The mean of a document's hidden states, or the first one."""

_MODULES = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")


@dataclass(frozen=True)
class Embedder:
    """The part of a sentence-transformers model after its encoder, and its settings.

    Attributes:
        modules: modules that pool, project and normalise.
        max_length: maximum number of tokens of a text; None for that of the encoder.
        prompts: texts to put before a text, by name.
        default_prompt: name of the prompt that is used by default.
    """

    modules: Sequence[torch.nn.Module]
    max_length: int | None
    prompts: dict[str, str]
    default_prompt: str | None


def load_embedder(reference: ModelReference) -> Embedder:
    """Loads the modules of an embedder without its encoder.

    Args:
        reference: a model with a `modules.json`.

    Raises:
        UsageError: sentence-transformers is missing, or the model has other modules than an embedder of texts.
    """
    try:
        from sentence_transformers.sentence_transformer import modules as classes
    except ImportError as error:
        raise UsageError(
            f"{reference}: needs sentence-transformers 6.2 or later: pip install 'llm-jp-modernbert[retrieval]'."
        ) from error
    encoder, *others = _read(reference, MODULES, list[Module])
    names = [module["type"].rpartition(".")[2] for module in others]
    unknown = [name for name in names if name not in _MODULES]
    if encoder["path"] or unknown or not names:
        raise UsageError(
            f"{reference}: not an embedder of texts with modules {', '.join(_MODULES)}; it has "
            f"{', '.join([encoder['type'].rpartition('.')[2], *names])}. Use sentence-transformers."
        )
    try:
        loaded = [
            getattr(classes, name).load(reference.name, subfolder=module["path"], revision=reference.revision).eval()
            for name, module in zip(names, others, strict=True)
        ]
    except loading_errors() as error:
        raise UsageError(f"{reference}: its modules cannot be loaded. {first_line(error)}") from error
    if not all(getattr(module, "include_prompt", True) for module in loaded):
        raise UsageError(f"{reference}: its pooling leaves out the prompt. Use sentence-transformers.")
    settings = _read(reference, SETTINGS, dict[str, Any])
    return Embedder(
        loaded,
        _read(reference, TRANSFORMER_SETTINGS, dict[str, Any]).get("max_seq_length"),
        settings.get("prompts") or {},
        settings.get("default_prompt_name"),
    )


def pool(hidden: torch.Tensor, cu_seqlens: np.ndarray, pooling: Pooling | Sequence[torch.nn.Module]) -> np.ndarray:
    """Computes a vector for each document.

    Args:
        hidden: last hidden states, `(total_tokens, hidden)`.
        cu_seqlens: int64 `(documents + 1,)`, the document boundaries.
        pooling: how, or modules of an embedder on the device of `hidden`.

    Returns:
        float32 `(documents, dimensions)`.
    """
    import torch

    boundaries = torch.from_numpy(cu_seqlens).to(hidden.device)
    with torch.inference_mode():
        if pooling == "cls":
            vectors = hidden[boundaries[:-1]]
        elif pooling == "mean":
            lengths = boundaries.diff()
            documents = torch.arange(len(lengths), device=hidden.device)
            documents = documents.repeat_interleave(lengths, output_size=len(hidden))
            # Sums over thousands of tokens are inaccurate in half precision.
            sums = hidden.new_zeros(len(lengths), hidden.shape[-1], dtype=torch.float32)
            vectors = sums.index_add(0, documents, hidden.float()) / lengths[:, None]
        else:
            # With boundaries, sentence-transformers' modules read a packed row.
            features: dict[str, Any] = {"token_embeddings": hidden[None], "cu_seq_lens_q": boundaries}
            for module in pooling:
                features = module(features)
            vectors = features["sentence_embedding"]
        array: np.ndarray = vectors.float().cpu().numpy()
    return array


def _read(reference: ModelReference, name: str, kind: Any) -> Any:
    file: Path | None = model_file(reference, name)
    return kind() if file is None else read_json(file, kind)
