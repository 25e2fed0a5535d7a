"""Probe of llama.cpp, in xllamacpp's build: the encoder on given token ids, its pooling, and its own tokenizer."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

REQUIRES = ("xllamacpp", "gguf", "safetensors")
VERSION_OF = ("xllamacpp",)
LEFT_OUT = {"token_ids": "its tokenizer inserts a space after a mask"}


def _converter() -> Any:
    """The converter to GGUF, which needs no other module of the package."""
    spec = importlib.util.spec_from_file_location("write_gguf", Path(__file__).parents[1] / "write_gguf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unsupported(request: dict[str, Any]) -> str | None:
    """Why llama.cpp cannot compute a model, or None."""
    if request["head"] not in ("ForMaskedLM", "Model"):
        return "computes encoders and embedders only"
    reason: str | None = _converter().unsupported(Path(request["folder"]))
    return reason


def outputs(request: dict[str, Any]) -> dict[str, list[Any]]:
    """Hidden states and pooled embeddings of the token ids, and the ids of llama.cpp's tokenizer."""
    import xllamacpp

    pooling_types = xllamacpp.llama_pooling_type
    limit = max(map(len, request["token_ids"]))
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "model.gguf"
        pools = _converter().write_gguf(Path(request["folder"]), file)
        server = _start(file, pooling_types.LLAMA_POOLING_TYPE_NONE, limit)
        texts, token_ids = request["texts"], request["token_ids"]
        results = {
            "last_hidden_state": [_post(server, "embedding", content=ids)[0]["embedding"] for ids in token_ids],
            "token_ids": [
                None if request["mask_token_id"] in ids else _tokenize(server, *text)
                for text, ids in zip(texts, token_ids, strict=True)
            ],
        }
        if pools:
            server = _start(file, pooling_types.LLAMA_POOLING_TYPE_UNSPECIFIED, limit)
            # 2 is the Euclidean norm, and -1 none.
            norm = 2 if _converter().is_normalized(Path(request["folder"])) else -1
            rows = [_post(server, "embedding", content=ids, embd_normalize=norm) for ids in request["sentence_ids"]]
            results["sentence_embedding"] = [row[0]["embedding"][0] for row in rows]
            results["sentence_ids"] = [_tokenize(server, *text) for text in request["sentences"]]
    return results


def _start(file: Path, pooling_type: Any, limit: int) -> Any:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.embedding = True
    settings.pooling_type = pooling_type
    # A text that attends to all of itself must fit into one batch.
    settings.n_ctx = settings.n_batch = settings.n_ubatch = limit
    settings.n_parallel = 1
    settings.embd_normalize = -1
    return xllamacpp.Server(settings)


def _tokenize(server: Any, text: str) -> list[int]:
    ids: list[int] = _post(server, "tokenize", content=text, add_special=True)["tokens"]
    return ids


def _post(server: Any, path: str, **body: Any) -> Any:
    request = urllib.request.Request(
        f"{server.listening_address}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)
