"""Loads saved models and datasets in a separate process that cannot import this package or reach the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import UsageError


def reload_alone(
    directory: Path,
    masked_texts: Sequence[str] = (),
    top_k: int = 5,
    *,
    auto_class: str = "AutoModelForMaskedLM",
    custom_code: bool = False,
    rows: Sequence[Mapping[str, Any]] = (),
    fields: Sequence[str] = (),
    embedder: str | None = None,
    texts: Sequence[str] = (),
    tensors: Path | None = None,
    programs: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Loads a model with plain transformers and computes its outputs (`plain_reload.py`).

    Args:
        directory: the saved model with its tokenizer.
        masked_texts: texts with one `[MASK]` each, to fill by a masked language model.
        top_k: number of candidates per mask.
        auto_class: class of transformers that loads the model.
        custom_code: whether code in the directory may run; native checkpoints need it.
        rows: inputs of the model, as nested lists by name.
        fields: fields of the model's output.
        embedder: class of sentence-transformers that loads the directory too, if any.
        texts: texts to split into tokens, and to embed.
        tensors: safetensors file to write the outputs and embeddings to, by the names in `plain_reload`.
        programs: programs to run in the same process, by title.

    Returns:
        `class` and `module` of the model; `answers`, the output of the fill-mask pipeline for each masked text;
        `token_ids` of each text; and `printed`, the output of each program by its title.

    Raises:
        UsageError: transformers cannot load the model, or a program fails.
    """
    request = {
        "model": str(directory),
        "masked_texts": list(masked_texts),
        "top_k": top_k,
        "auto_class": auto_class,
        "custom_code": custom_code,
        "rows": list(rows),
        "fields": list(fields),
        "embedder": embedder,
        "texts": list(texts),
        "tensors": None if tensors is None else str(tensors),
        "programs": dict(programs or {}),
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
