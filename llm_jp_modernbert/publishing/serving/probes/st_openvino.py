"""Probe of sentence-transformers with its backend OpenVINO."""

from __future__ import annotations

from typing import Any

from st_torch import computed_by, unsupported

__all__ = ["REQUIRES", "VERSION_OF", "outputs", "unsupported"]

REQUIRES = ("sentence_transformers", "optimum.intel")
VERSION_OF = ("sentence-transformers", "optimum-intel", "transformers")


def outputs(request: dict[str, Any]) -> dict[str, list[Any]]:
    """Embeddings or scores by the openvino backend, and token ids."""
    return computed_by("openvino", request)
