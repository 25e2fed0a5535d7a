"""Small models of sentence-transformers, one of each kind, as its version 6 saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from checkpoints import write_model

from llm_jp_modernbert.inference.heads import ENCODER, MASKED_LM, SEQUENCE_CLASSIFICATION

PROMPTS = {"query": "検索: ", "document": "文書: "}
KINDS = ("SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder")


def write_sentence_model(folder: Path, kind: str) -> Path:
    """Saves a model with random weights.

    Args:
        folder: directory to create. The encoder is saved next to it.
        kind: one of `KINDS`. A `SentenceTransformer` has CLS pooling, a dense layer, normalization, the dot product
            and a default prompt, and reads 100 tokens; a `CrossEncoder` has no activation function.
    """
    build = {
        "SentenceTransformer": _embedder,
        "CrossEncoder": _reranker,
        "SparseEncoder": _sparse,
        "MultiVectorEncoder": _late_interaction,
    }[kind]
    torch.manual_seed(0)
    build(folder.with_name(f"{folder.name}-encoder")).save_pretrained(str(folder))
    return folder


def _embedder(encoder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    # Theta differs from transformers 4's default, so that it must be saved.
    write_model(encoder, ENCODER, global_rope_theta=20_000.0, local_rope_theta=5_000.0)
    model = SentenceTransformer(
        modules=[
            modules.Transformer(str(encoder)),
            modules.Pooling(32, "cls"),
            modules.Dense(32, 16),
            modules.Normalize(),
        ],
        prompts=PROMPTS,
        default_prompt_name="document",
        similarity_fn_name="dot",
        device="cpu",
    )
    model.max_seq_length = 100
    return model


def _reranker(encoder: Path) -> Any:
    from sentence_transformers import CrossEncoder

    source = write_model(encoder, SEQUENCE_CLASSIFICATION, id2label={0: "LABEL_0"})
    return CrossEncoder(str(source), device="cpu", activation_fn=torch.nn.Identity())


def _sparse(encoder: Path) -> Any:
    from sentence_transformers import SparseEncoder

    return SparseEncoder(str(write_model(encoder, MASKED_LM)), device="cpu", prompts=PROMPTS)


def _late_interaction(encoder: Path) -> Any:
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(str(write_model(encoder, ENCODER)), device="cpu", prompts=PROMPTS)
