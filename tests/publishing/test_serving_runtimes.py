"""The runtimes outside of Python's usual packages, where they are installed, and the files made for them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint, write_model
from safetensors.numpy import load_file

from llm_jp_modernbert.inference.heads import ENCODER, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Head
from llm_jp_modernbert.publishing.export_onnx import export_onnx
from llm_jp_modernbert.publishing.serving.check import serve_check
from llm_jp_modernbert.publishing.serving.options import ServeCheckOptions
from llm_jp_modernbert.publishing.serving.write_gguf import unsupported, write_gguf

# vLLM has no attention for smaller heads on a CPU.
WIDTH = 64


def differences(folder: Path, runtime: str) -> dict[str, Any]:
    """The differences from torch by output, without the number of compared texts."""
    rows = serve_check(ServeCheckOptions(folder, runtimes=[runtime]))["rows"]
    assert [row["reason"] for row in rows if row["status"] == "failed"] == []
    return {row["output"].partition(" of ")[0]: row["difference"] for row in rows if row["status"] == "ok"}


def write_embedder(folder: Path, normalized: bool) -> Path:
    """Saves an embedder of the modules that most embedders have, by sentence-transformers itself."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    encoder = write_model(folder.with_name("encoder"), ENCODER, hidden_size=WIDTH)
    last = [modules.Normalize()] if normalized else []
    model = SentenceTransformer(
        modules=[modules.Transformer(str(encoder)), modules.Pooling(WIDTH, "mean"), *last], device="cpu"
    )
    model.save_pretrained(str(folder))
    return folder


def has_transformers_js() -> bool:
    """Whether node finds transformers.js from the current directory."""
    if shutil.which("node") is None:
        return False
    code = 'require("module").createRequire(process.cwd() + "/x.mjs").resolve("@huggingface/transformers")'
    return subprocess.run(["node", "-e", code], capture_output=True).returncode == 0


@pytest.mark.skipif(not has_transformers_js(), reason="needs @huggingface/transformers")
def test_transformers_js_computes_the_same(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    assert not differences(folder, "transformers.js")
    export_onnx(folder)
    found = differences(folder, "transformers.js")
    assert {*found} == {"logits", "token ids"}
    assert found["logits"] < 1e-4


@pytest.mark.skipif(not has_transformers_js(), reason="needs @huggingface/transformers")
def test_transformers_js_embeds_the_same(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "model", normalized=True)
    export_onnx(folder)
    found = differences(folder, "transformers.js")
    assert {*found} == {"last hidden state", "token ids", "sentence embedding", "sentence ids"}
    assert found["sentence embedding"] < 1e-4


needs_llama_cpp = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "gguf")), reason="needs xllamacpp and gguf"
)


@needs_llama_cpp
def test_llama_cpp_computes_the_same(tmp_path: Path) -> None:
    found = differences(write_checkpoint(tmp_path / "model"), "llama.cpp")
    assert {*found} == {"last hidden state", "token ids"}
    assert found["last hidden state"] < 1e-2


@needs_llama_cpp
@pytest.mark.parametrize("normalized", [False, True])
def test_llama_cpp_embeds_the_same(tmp_path: Path, normalized: bool) -> None:
    found = differences(write_embedder(tmp_path / "model", normalized), "llama.cpp")
    assert {*found} == {"last hidden state", "token ids", "sentence embedding", "sentence ids"}
    assert found["sentence embedding"] < 1e-2


needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vllm")


@needs_vllm
@pytest.mark.parametrize("head", [ENCODER, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION], ids=lambda head: head.name)
def test_vllm_computes_the_same(tmp_path: Path, head: Head) -> None:
    found = differences(write_model(tmp_path / "model", head, hidden_size=WIDTH), "vLLM")
    assert {*found} == {head.outputs[0].replace("_", " "), "token ids"}
    assert found["token ids"] == 0


@needs_vllm
def test_vllm_embeds_the_same(tmp_path: Path) -> None:
    found = differences(write_embedder(tmp_path / "model", normalized=True), "vLLM")
    assert {*found} == {"sentence embedding", "sentence ids"}


@needs_vllm
def test_vllm_scores_the_same(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    source = write_model(tmp_path / "source", SEQUENCE_CLASSIFICATION, id2label={0: "LABEL_0"}, hidden_size=WIDTH)
    CrossEncoder(str(source), device="cpu").save_pretrained(str(tmp_path / "model"))
    found = differences(tmp_path / "model", "vLLM")
    assert {*found} == {"score", "sentence ids"}


def test_gguf_holds_the_encoder_and_the_tokenizer(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    folder = write_checkpoint(tmp_path / "model")
    assert unsupported(folder) is None
    assert not write_gguf(folder, tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    weights = load_file(folder / "model.safetensors")
    assert len(tensors) == sum(name.startswith("model.") for name in weights)
    assert (tensors["blk.1.attn_qkv.weight"] == weights["model.layers.1.attn.Wqkv.weight"]).all()
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["modern-bert.attention.sliding_window"] == 16
    assert len(fields["tokenizer.ggml.tokens"]) == 305
    # Line breaks have a piece in place of a byte.
    assert "\n" in fields["tokenizer.ggml.tokens"]


def test_models_that_llama_cpp_lacks_are_named(tmp_path: Path) -> None:
    native = write_checkpoint(tmp_path / "native", "native")
    assert "--format plain" in str(unsupported(native))
    biased = write_checkpoint(tmp_path / "biased")
    config = biased / "config.json"
    config.write_text(config.read_text().replace('"mlp_bias": false', '"mlp_bias": true'))
    assert unsupported(biased) == "has no biases: mlp_bias"
