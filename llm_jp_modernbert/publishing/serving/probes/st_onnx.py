"""Probe of sentence-transformers with its backend ONNX Runtime, which reads `onnx/model.onnx`."""

from __future__ import annotations

from typing import Any

from st_torch import computed_by, unsupported

__all__ = ["REQUIRES", "VERSION_OF", "outputs", "unsupported"]

REQUIRES = ("sentence_transformers", "optimum.onnxruntime")
VERSION_OF = ("sentence-transformers", "optimum-onnx", "transformers")


def outputs(request: dict[str, Any]) -> dict[str, list[Any]]:
    """Embeddings or scores by the onnx backend, and token ids."""
    return computed_by("onnx", request)
