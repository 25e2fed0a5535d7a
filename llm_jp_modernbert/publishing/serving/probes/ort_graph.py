"""Probe of ONNX Runtime with the padded graph, `onnx/model.onnx`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

REQUIRES = ("onnxruntime",)
VERSION_OF = ("onnxruntime",)
GRAPH = "onnx/model.onnx"


def unsupported(request: dict[str, Any]) -> str | None:
    """The release must have the graph."""
    return None if (Path(request["folder"]) / GRAPH).is_file() else f"the directory has no {GRAPH}"


def load(request: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The graph as a function of a batch."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(str(Path(request["folder"]) / GRAPH), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def compute(batch: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(names, session.run(names, batch), strict=True))

    return compute
