"""`train-embedder`, `train-reranker`, `train-sparse` and `train-late-interaction`."""

from __future__ import annotations

from llm_jp_modernbert.core.entry_points import end_processes
from llm_jp_modernbert.core.terminal import quiet_libraries
from llm_jp_modernbert.training.retrieval.options import (
    EmbedderOptions,
    LateInteractionOptions,
    RerankerOptions,
    RetrievalOptions,
    SparseOptions,
)

from .options import takes


@takes(EmbedderOptions)
def train_embedder(options: EmbedderOptions) -> None:
    """Trains an embedder for search or similarity on your own texts, and keeps it with its scores.

    Examples:

    * `llm-jp-modernbert train-embedder ORG/NAME --train questions.jsonl --out my-embedder`

    * `llm-jp-modernbert train-embedder ORG/NAME --train texts.txt --out my-embedder num_train_epochs=1`

    To use several processes, replace `llm-jp-modernbert` by
    `accelerate launch -m llm_jp_modernbert.training.retrieval`.
    """
    _train(options)


@takes(RerankerOptions)
def train_reranker(options: RerankerOptions) -> None:
    """Trains a reranker, which orders the passages that a search has found, and keeps it with its scores.

    Examples:

    * `llm-jp-modernbert train-reranker ORG/NAME --train questions.jsonl --mine-negatives 7 --out my-reranker`

    * `llm-jp-modernbert train-reranker ORG/NAME --train scored-pairs.csv --out my-reranker`

    To use several processes, replace `llm-jp-modernbert` by
    `accelerate launch -m llm_jp_modernbert.training.retrieval`.
    """
    _train(options)


@takes(SparseOptions)
def train_sparse(options: SparseOptions) -> None:
    """Trains a sparse embedder (SPLADE), whose dimensions are tokens, and keeps it with its scores.

    Examples:

    * `llm-jp-modernbert train-sparse ORG/NAME --train questions.jsonl --out my-sparse-embedder`

    * `llm-jp-modernbert train-sparse ORG/NAME --train questions.jsonl --test test.jsonl --out my-sparse-embedder`

    To use several processes, replace `llm-jp-modernbert` by
    `accelerate launch -m llm_jp_modernbert.training.retrieval`.
    """
    _train(options)


@takes(LateInteractionOptions)
def train_late_interaction(options: LateInteractionOptions) -> None:
    """Trains a late-interaction model (ColBERT), with a vector for each token, and keeps it with its scores.

    Examples:

    * `llm-jp-modernbert train-late-interaction ORG/NAME --train questions.jsonl --out my-colbert`

    * `llm-jp-modernbert train-late-interaction ORG/NAME --train questions.jsonl --out my-colbert --dimensions 64`

    To use several processes, replace `llm-jp-modernbert` by
    `accelerate launch -m llm_jp_modernbert.training.retrieval`.
    """
    _train(options)


def _train(options: RetrievalOptions) -> None:
    from llm_jp_modernbert.training.retrieval.run import train_retrieval

    quiet_libraries()
    train_retrieval(options)
    end_processes()
