"""Helpers of all exports of graphs: quiet exporters, and ONNX files without paths of this machine."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST_FILE = 1_900_000_000
"""Largest size in bytes of weights in the `.onnx` file itself: a protocol buffer holds at most 2 GB."""


def weights_file(file: Path) -> Path:
    """The file of a large graph's weights, with the name that optimum and transformers.js expect."""
    return file.with_name(f"{file.name}_data")


def rename_weights(file: Path) -> None:
    """Gives the weights of a large graph that torch or ONNX Runtime saved as `.onnx.data` their usual name."""
    import onnx_ir

    saved = file.with_name(f"{file.name}.data")
    if saved.exists():
        onnx_ir.save(onnx_ir.load(file), file, external_data=weights_file(file).name)
        saved.unlink()


def remove_metadata(model: Any) -> None:
    """Removes torch's notes on the origin of every node, which contain paths of this machine."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.doc_string = None
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *getattr(graph, "initializers", {}).values()):
            value.metadata_props.clear()
        graph.metadata_props.clear()
    model.metadata_props.clear()


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Silences the exporters' warnings about optional packages."""
    previous, handlers = logging.root.manager.disable, list(logging.root.handlers)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        # onnxruntime gives the root logger a handler, which would show every message twice.
        logging.root.handlers[:] = handlers
