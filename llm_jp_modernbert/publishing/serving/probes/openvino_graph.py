"""Probe of OpenVINO, which reads the padded graph, `onnx/model.onnx`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ort_graph import GRAPH, unsupported

__all__ = ["REQUIRES", "VERSION_OF", "load", "unsupported"]

REQUIRES = ("openvino",)
VERSION_OF = ("openvino",)


def load(request: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The graph as a function of a batch, in float32."""
    import openvino

    model = openvino.compile_model(str(Path(request["folder"]) / GRAPH), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [output.get_any_name() for output in model.outputs]

    def compute(batch: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(names, (values.copy() for values in model(batch).values()), strict=True))

    return compute
