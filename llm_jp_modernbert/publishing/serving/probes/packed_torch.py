"""Probe of this package's own encoder with its torch backend, on one packed batch."""

from __future__ import annotations

from typing import Any

REQUIRES = ("llm_jp_modernbert", "torch")
VERSION_OF = ("llm-jp-modernbert", "torch")


def outputs(request: dict[str, Any]) -> dict[str, list[Any]]:
    """The outputs of all texts in one packed batch by the torch backend."""
    from llm_jp_modernbert.inference.encoder.encoder import load_encoder

    encoder = load_encoder(request["folder"], backend="torch", dtype="float32", device="cpu")
    return packed_by(encoder.runner, request["embedder"] == "SentenceTransformer", request)


def packed_by(runner: Any, embeds: bool, request: dict[str, Any]) -> dict[str, list[Any]]:
    """The outputs of all texts in one packed batch by a runner: embeddings, or those of the head."""
    import numpy as np

    is_choice = request["head"] == "ForMultipleChoice"
    rows = request["sentence_ids" if embeds else "token_ids"]
    documents = [choice for row in rows for choice in row] if is_choice else rows
    documents = [np.asarray(document, np.int64) for document in documents]
    ends = np.cumsum([len(document) for document in documents])
    ids = np.concatenate(documents)
    positions = None
    if request["mask_token_id"] is not None and not embeds:
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
    return {"sentence_embedding": split["sentence_embedding"]} if embeds else split
