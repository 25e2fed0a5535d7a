"""Probe of sentence-transformers with its torch backend."""

from __future__ import annotations

import inspect
from typing import Any

REQUIRES = ("sentence_transformers", "torch")
VERSION_OF = ("sentence-transformers", "transformers")


def unsupported(request: dict[str, Any]) -> str | None:
    """The model must be one of sentence-transformers."""
    if request["embedder"] is None:
        return "the directory has no modules.json of an embedder"
    return None


def outputs(request: dict[str, Any]) -> dict[str, list[Any]]:
    """Embeddings or scores by the torch backend, and token ids."""
    return computed_by("torch", request)


def computed_by(backend: str, request: dict[str, Any]) -> dict[str, list[Any]]:
    """Embeddings or scores by a backend, computed in padded batches, and token ids."""
    import sentence_transformers

    kind, sentences = request["embedder"], request["sentences"]
    options: dict[str, Any] = {"trust_remote_code": request["custom_code"]}
    if backend == "torch":
        options["model_kwargs"] = {"dtype": "float32"}
    else:
        options["backend"] = backend
    model = getattr(sentence_transformers, kind)(request["folder"], device="cpu", **options)
    ids = [model.tokenizer(*sentence)["input_ids"] for sentence in sentences]
    # The long texts are the last.
    short = sum(len(row) <= 512 for row in ids)
    parts = [part for part in (sentences[:short], *([text] for text in sentences[short:])) if part]
    computed: list[Any] = []
    for part in parts:
        texts = [text[0] for text in part]
        if kind == "CrossEncoder":
            # Earlier versions have no prompts here.
            prompt = {"prompt": ""} if "prompt" in inspect.signature(model.predict).parameters else {}
            computed += list(model.predict([tuple(pair) for pair in part], **prompt))
        elif kind == "MultiVectorEncoder":
            computed += [vectors.numpy() for vectors in model.encode_document(texts, convert_to_tensor=True)]
        else:
            embeddings = model.encode(texts, prompt="", convert_to_tensor=True)
            computed += list(embeddings.to_dense().float().numpy())
    name = {"CrossEncoder": "score", "MultiVectorEncoder": "token_embeddings"}.get(kind, "sentence_embedding")
    return {name: computed, "sentence_ids": ids}
