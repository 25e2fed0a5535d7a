"""Loads saved models and datasets in a separate process that cannot import this package or reach the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import UsageError


def reload_alone(
    directory: Path,
    texts: Sequence[str],
    top_k: int = 5,
    rows: Sequence[Sequence[int]] = (),
    logits: Path | None = None,
    custom_code: bool = False,
) -> dict[str, Any]:
    """Loads a masked language model with plain transformers, fills masks and computes logits (`plain_reload.py`).

    Args:
        directory: the saved model with its tokenizer.
        texts: texts with one `[MASK]` each.
        rows: token ids of the sequences to compute logits of.
        logits: safetensors file to write the logits to, float32 `(tokens, vocabulary)`, as `row-0`, `row-1`, ….
        custom_code: whether code in the directory may run; native checkpoints need it.

    Returns:
        `class` and `module` of the model, and `answers`: the output of the fill-mask pipeline for each text.

    Raises:
        UsageError: transformers cannot load the model.
    """
    request = {
        "model": str(directory),
        "texts": list(texts),
        "top_k": top_k,
        "custom_code": custom_code,
        "rows": [list(row) for row in rows],
        "logits": None if logits is None else str(logits),
    }
    return run_alone("plain_reload.py", request, f"{directory}: transformers alone cannot use the saved model")


def run_alone(script: str, request: dict[str, Any], failure: str) -> dict[str, Any]:
    """Runs a script of this folder on a JSON request; if it fails, raises `UsageError` that begins with `failure`."""
    run = subprocess.run(
        [sys.executable, "-I", str(Path(__file__).with_name(script))],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
    )
    if run.returncode:
        last_line = next(reversed(run.stderr.strip().splitlines()), f"exit code {run.returncode}")
        raise UsageError(f"{failure}: {last_line}")
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer
