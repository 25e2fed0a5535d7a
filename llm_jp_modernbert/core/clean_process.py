"""Saved models and datasets in a process that knows nothing of this package."""

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
    return _run("plain_reload.py", request, f"{directory}: transformers alone cannot use the saved model")


def stream_alone(folder: Path, split: str, name: str) -> dict[str, Any]:
    """What `datasets` reads of a dataset's folder as a stream, without this package and without the Hub.

    Args:
        folder: the dataset, with its card.
        split: to be read, all of it.
        name: what messages call it.

    Returns:
        `columns`, `rows`, and by column `sums`, `items` and `largest`; see `plain_stream.py`.

    Raises:
        UsageError: `datasets` cannot read it.
    """
    request = {"folder": str(folder), "split": split}
    return _run("plain_stream.py", request, f"{name}: datasets alone cannot stream it")


def _run(script: str, request: dict[str, Any], failure: str) -> dict[str, Any]:
    """The answer of a script beside this file; `failure` is what to say where it gives none."""
    run = subprocess.run(
        [sys.executable, "-I", str(Path(__file__).with_name(script))],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
    )
    if run.returncode:
        last = next(reversed(run.stderr.strip().splitlines()), f"it ended with {run.returncode}")
        raise UsageError(f"{failure}: {last}")
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer
