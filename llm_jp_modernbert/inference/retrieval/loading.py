"""Loads models of sentence-transformers of any type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.files import read_json
from llm_jp_modernbert.core.hub_errors import limit_waiting
from llm_jp_modernbert.core.references import ModelReference

from ..auto import registered_for_modernbert
from ..heads import SEQUENCE_CLASSIFICATION
from ..loading import loading_errors
from .layout import MODULES, SETTINGS

# Names that PyLate and Stanford's ColBERT give to late-interaction models.
_LATE_INTERACTION = ("ColBERT", "HF_ColBERT")


def load_retrieval_model(name: str, device: str | None = None, dtype: str = "float32") -> Any:
    """Loads an embedder, a reranker, a sparse or a late-interaction model for inference.

    `modernbert` checkpoints run as this package's class. An encoder without modules of sentence-transformers becomes
    an embedder with mean pooling, a classifier a reranker.

    Args:
        name: directory, repository, or `ORG/NAME@REVISION`.
        device: device; by default the best one.
        dtype: data type.

    Returns:
        A SentenceTransformer, CrossEncoder, SparseEncoder or MultiVectorEncoder.

    Raises:
        UsageError: sentence-transformers is missing, or the model cannot be loaded.

    Example:
        >>> load_retrieval_model("my-embedder").encode_query(["猫はどこ？"]).shape
        (1, 768)
    """
    try:
        import sentence_transformers

        from .splade import SpladeEncoder
    except ImportError as error:
        raise UsageError(
            f"{name}: needs sentence-transformers 6.2 or later: pip install 'llm-jp-modernbert[retrieval]'."
        ) from error
    reference = ModelReference.parse(name)
    reference.check_model()
    if not reference.is_local:
        limit_waiting()
    common: dict[str, Any] = {"revision": reference.revision} if reference.revision else {}
    try:
        kind = type_of(reference)
        model_class = SpladeEncoder if kind == "SparseEncoder" else getattr(sentence_transformers, kind)
        with registered_for_modernbert():
            return model_class(reference.name, device=device, model_kwargs={"dtype": dtype}, **common).eval()
    except loading_errors() as error:
        raise UsageError(f"{name}: cannot be loaded. {first_line(error)}") from error


def type_of(reference: ModelReference) -> str:
    """The class of sentence-transformers that loads a model."""
    saved = saved_type(reference)
    if saved is not None:
        return saved
    # Earlier versions saved rerankers as models of transformers.
    config = model_file(reference, "config.json")
    architectures = (read_json(config, dict[str, Any]).get("architectures") if config is not None else None) or [""]
    if architectures[0] in _LATE_INTERACTION:
        return "MultiVectorEncoder"
    is_classifier = str(architectures[0]).endswith(SEQUENCE_CLASSIFICATION.suffix)
    return "CrossEncoder" if is_classifier else "SentenceTransformer"


def saved_type(reference: ModelReference) -> str | None:
    """The class of sentence-transformers that has saved a model; None for models of transformers."""
    if model_file(reference, MODULES) is None:
        return None
    settings = model_file(reference, SETTINGS)
    # Files of versions before 5.0 do not name the type.
    known = read_json(settings, dict[str, Any]) if settings is not None else {}
    name = str(known.get("model_type", "SentenceTransformer"))
    return "MultiVectorEncoder" if name in _LATE_INTERACTION else name


def model_file(reference: ModelReference, name: str) -> Path | None:
    """A file of a model, downloaded if necessary; None if the model lacks it."""
    from transformers.utils.hub import cached_file

    path = cached_file(
        reference.name,
        name,
        revision=reference.revision,
        _raise_exceptions_for_missing_entries=False,
        # Without network, the cache decides.
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else Path(path)
