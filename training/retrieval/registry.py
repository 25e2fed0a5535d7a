"""The type of model of each command."""

from __future__ import annotations

from .embedder import Embedder
from .kinds import RetrievalKind
from .late_interaction import LateInteraction
from .options import Kind, RetrievalOptions
from .reranker import Reranker
from .sparse import Sparse

_KINDS: dict[Kind, type[RetrievalKind]] = {
    "embedder": Embedder,
    "reranker": Reranker,
    "sparse": Sparse,
    "late-interaction": LateInteraction,
}


def kind_of(options: RetrievalOptions) -> RetrievalKind:
    """The type of model that a command trains."""
    return _KINDS[options.kind](options)
