"""Probe of this package's packed graph in OpenVINO on packed batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from packed_torch import packed_by

REQUIRES = ("llm_jp_modernbert", "openvino")
VERSION_OF = ("llm-jp-modernbert", "openvino")
FOLDER = "packed/openvino"


def unsupported(request: dict[str, Any]) -> str | None:
    """The release must have the graph."""
    is_here = (Path(request["folder"]) / FOLDER).is_dir()
    return None if is_here else f"the directory has no {FOLDER}: release with --packed"


def outputs(request: dict[str, Any]) -> dict[str, list[Any]]:
    """The outputs of packed batches by the graph."""
    from llm_jp_modernbert.inference.graphs.runners import OpenVinoRunner

    runner = OpenVinoRunner(Path(request["folder"]) / FOLDER)
    return packed_by(runner, "sentence_embedding" in runner.description["outputs"], request)
