"""Probe of this package's own encoder with its torch backend, on packed batches."""

from __future__ import annotations

from typing import Any

REQUIRES = ("llm_jp_modernbert", "torch")
VERSION_OF = ("llm-jp-modernbert", "torch")


def outputs(request: dict[str, Any]) -> dict[str, list[Any]]:
    """The outputs of packed batches by the torch backend."""
    from llm_jp_modernbert.inference.encoder.encoder import load_encoder

    encoder = load_encoder(request["folder"], backend="torch", dtype="float32", device="cpu")
    return packed_by(encoder.runner, request["embedder"] == "SentenceTransformer", request)


def packed_by(runner: Any, embeds: bool, request: dict[str, Any]) -> dict[str, list[Any]]:
    """The outputs of a runner: embeddings, or those of the head.

    The short texts are one packed batch. Graphs pad global attention to the longest document of a batch, so each long
    text is a batch of its own, as in `load_encoder`. The choices of a text are the documents of a batch.
    """
    import numpy as np

    texts = request["sentence_ids" if embeds else "token_ids"]
    if request["head"] == "ForMultipleChoice":
        return {"logits": [np.concatenate(_run(runner, choices, None)["logits"]) for choices in texts]}
    outputs: dict[str, list[Any]] = {}
    # The long texts are the last.
    short = sum(len(text) <= 512 for text in texts)
    for batch in filter(None, (texts[:short], *([text] for text in texts[short:]))):
        for name, arrays in _run(runner, batch, None if embeds else request["mask_token_id"]).items():
            outputs.setdefault(name, []).extend(arrays)
    return {"sentence_embedding": outputs["sentence_embedding"]} if embeds else outputs


def _run(runner: Any, documents: list[list[int]], mask_token_id: int | None) -> dict[str, list[Any]]:
    """The outputs of a packed batch, an array for each document."""
    import numpy as np

    ids = np.concatenate([np.asarray(document, np.int64) for document in documents])
    ends = np.cumsum([len(document) for document in documents])
    positions = None if mask_token_id is None else np.flatnonzero(ids == mask_token_id)
    outputs: dict[str, list[Any]] = {}
    for name, values in runner.run(ids, np.concatenate([[0], ends]), positions).items():
        if name == "logits" and positions is not None:
            outputs[name] = np.split(values, np.searchsorted(positions, ends[:-1]))
        else:
            outputs[name] = np.split(values, ends[:-1]) if len(values) == len(ids) else list(values)
    return outputs
