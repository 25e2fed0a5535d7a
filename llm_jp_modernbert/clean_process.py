"""Saved models in a process that knows nothing of this package."""

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
    """What transformers makes of a saved masked language model, without this package and without the Hub.

    Args:
        directory: the model with its tokenizer.
        texts: with one `[MASK]` each.
        top_k: candidates for each.
        rows: token ids to compute logits of.
        logits: safetensors file to write these to, float32 `(tokens, vocabulary)` as `row-0`, `row-1`, ….
        custom_code: whether the code in the directory may run, as a native checkpoint needs it.

    Returns:
        `class` and `module` of the model, and `answers`: for each text the fill-mask pipeline's.

    Raises:
        UsageError: transformers cannot use it.
    """
    request = {
        "model": str(directory),
        "texts": list(texts),
        "top_k": top_k,
        "custom_code": custom_code,
        "rows": [list(row) for row in rows],
        "logits": None if logits is None else str(logits),
    }
    run = subprocess.run(
        [sys.executable, "-I", str(Path(__file__).with_name("plain_reload.py"))],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
    )
    if run.returncode:
        last = next(reversed(run.stderr.strip().splitlines()), f"it ended with {run.returncode}")
        raise UsageError(f"{directory}: transformers alone cannot use the saved model: {last}")
    answers: dict[str, Any] = json.loads(run.stdout)
    return answers
