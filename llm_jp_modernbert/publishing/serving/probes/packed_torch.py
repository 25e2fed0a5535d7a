"""Probe of this package's own encoder with its torch backend, on one packed batch."""

from __future__ import annotations

from typing import Any

REQUIRES = ("llm_jp_modernbert", "torch")
VERSION_OF = ("llm-jp-modernbert", "torch")


def outputs(request: dict[str, Any]) -> dict[str, list[Any]]:
    """The outputs of all texts in one packed batch by the torch backend."""
    return packed_by("torch", request)


def packed_by(backend: str, request: dict[str, Any]) -> dict[str, list[Any]]:
    """The outputs of all texts in one packed batch by a backend.

    A model of sentence-transformers computes its embeddings, others the outputs of their head.
    """
    import numpy as np

    from llm_jp_modernbert.inference.encoder.encoder import load_encoder

    runner = load_encoder(request["folder"], backend=backend, dtype="float32", device="cpu").runner  # type: ignore[arg-type]
    is_choice = request["head"] == "ForMultipleChoice"
    rows = request["token_ids"]
    if request["embedder"] is not None:
        rows = request["sentence_ids"]
    documents = [
        np.asarray(row, np.int64) for row in ([choice for row in rows for choice in row] if is_choice else rows)
    ]
    ends = np.cumsum([len(document) for document in documents])
    ids = np.concatenate(documents)
    positions = None
    if request["mask_token_id"] is not None and request["embedder"] is None:
        positions = np.flatnonzero(ids == request["mask_token_id"])
    batch = runner.run(ids, np.concatenate([[0], ends]), positions)
    split: dict[str, list[Any]] = {}
    for name, values in batch.items():
        if name == "logits" and positions is not None:
            split[name] = np.split(values, np.searchsorted(positions, ends[:-1]))
        elif len(values) == len(ids):
            split[name] = np.split(values, ends[:-1])
        else:
            split[name] = list(values.reshape(len(rows), -1)) if is_choice else list(values)
    # An embedder is compared by its embeddings alone.
    return {"sentence_embedding": split["sentence_embedding"]} if "sentence_embedding" in split else split
