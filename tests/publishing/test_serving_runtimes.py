"""The runtimes outside of Python's usual packages, where they are installed, and the files made for them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from safetensors.numpy import load_file

from llm_jp_modernbert.publishing.export_onnx import export_onnx
from llm_jp_modernbert.publishing.serving.check import serve_check
from llm_jp_modernbert.publishing.serving.options import ServeCheckOptions
from llm_jp_modernbert.publishing.serving.write_gguf import unsupported, write_gguf


def differences(folder: Path, runtime: str) -> dict[str, Any]:
    """The differences from torch by output, without the number of compared texts."""
    rows = serve_check(ServeCheckOptions(folder, runtimes=[runtime]))["rows"]
    assert all(row["status"] != "failed" for row in rows), rows
    return {row["output"].partition(" of ")[0]: row["difference"] for row in rows if row["status"] == "ok"}


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


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "gguf")), reason="needs xllamacpp and gguf"
)
def test_llama_cpp_computes_the_same(tmp_path: Path) -> None:
    found = differences(write_checkpoint(tmp_path / "model"), "llama.cpp")
    assert {*found} == {"last hidden state", "token ids"}
    assert found["last hidden state"] < 1e-2


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
