"""Averages the weights of several checkpoints.

ModernBERT averages the last checkpoints of a phase. The gain is small after a learning-rate decay to zero, and large
on a plateau, where averaging brings most of what the decay would bring.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from typing_extensions import TypedDict

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import atomic_directory, lock, read_config, read_json

from .checkpoints import INDEX, WeightIndex, unreadable_weights

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
PROVENANCE = "averaged_from.json"
"""The file of an average that names its checkpoints."""

# Copied from the last checkpoint.
_COPIED = (
    _CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "recipe.yaml",
    "training.json",
)


def average_checkpoints(directories: Sequence[str | os.PathLike[str]], out_dir: str | os.PathLike[str]) -> Path:
    """Writes a checkpoint whose weights are the means of several checkpoints' weights, computed in float64.

    Args:
        directories: at least two checkpoints of the same model. Tokenizer and configuration are copied from the last.
        out_dir: directory to write; it must not exist or be empty.

    Returns:
        The directory. `averaged_from.json` in it names the checkpoints.

    Raises:
        UsageError: there are fewer than two checkpoints, one has no readable weights, their weights differ in name,
            shape or dtype, or `out_dir` is not empty.

    Example:
        >>> average_checkpoints(["runs/stage1/checkpoint-900", "runs/stage1/checkpoint-1000"], "runs/stage1-mean")
    """
    sources = [Path(directory) for directory in directories]
    if len(sources) < 2:
        raise UsageError("averaging needs at least two checkpoints.")
    files = [_weight_files(source) for source in sources]
    for source, by_name in zip(sources[1:], files[1:], strict=True):
        differing = sorted(by_name.keys() ^ files[0].keys())
        if differing:
            raise UsageError(f"{source} and {sources[0]} hold different weights: only one of them has {differing[0]}.")
    out = Path(out_dir)
    with lock(out, "average"), atomic_directory(out) as folder:
        mean = {name: _mean(name, [by_name[name] for by_name in files]) for name in sorted(files[0])}
        save_file(mean, folder / _WEIGHTS, metadata={"format": "pt"})
        # A native checkpoint contains the code that its config.json refers to.
        for name in (*_COPIED, *(path.name for path in sources[-1].glob("*.py"))):
            if (sources[-1] / name).is_file():
                shutil.copy(sources[-1] / name, folder / name)
        _match_length(folder)
        provenance = [{"name": source.name, "step": _step(source)} for source in sources]
        (folder / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
    return out


class _State(TypedDict):
    global_step: int


def _match_length(folder: Path) -> None:
    """As `tokenization.match_length`, for the files of checkpoints written before it."""
    tokenizer, longest = folder / "tokenizer_config.json", read_config(folder).get("max_position_embeddings")
    if tokenizer.is_file() and longest is not None:
        settings = {**read_json(tokenizer, dict[str, Any]), "model_max_length": longest}
        tokenizer.write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _weight_files(source: Path) -> dict[str, Path]:
    """The file that holds each weight, by weight name."""
    if not (source / _CONFIG).is_file():
        raise UsageError(
            f"{source} holds no {_CONFIG}, so it is not a checkpoint. Name a directory that save_pretrained wrote."
        )
    damaged = unreadable_weights(source)
    if damaged:
        raise UsageError(damaged)
    try:
        if (source / INDEX).is_file():
            index: WeightIndex = read_json(source / INDEX, WeightIndex)
            return {name: source / Path(file).name for name, file in index["weight_map"].items()}
        with safe_open(source / _WEIGHTS, "pt") as weights:
            return dict.fromkeys(weights.keys(), source / _WEIGHTS)
    except (OSError, UsageError, SafetensorError) as error:
        raise UsageError(
            f"{source}: cannot read its weights ({error}). Only safetensors files are supported."
        ) from error


def _mean(name: str, files: Sequence[Path]) -> torch.Tensor:
    """The mean of a weight; the file of each checkpoint is given. One checkpoint at a time is in memory."""
    total: torch.Tensor | None = None
    for file in files:
        with safe_open(file, "pt") as opened:
            weight = opened.get_tensor(name)
        if total is None:
            first, total = weight, torch.zeros_like(weight, dtype=torch.float64)
        if weight.shape != first.shape or weight.dtype != first.dtype:
            raise UsageError(
                f"{file.parent}: {name} is {tuple(weight.shape)} {weight.dtype}, but in {files[0].parent} it is "
                f"{tuple(first.shape)} {first.dtype}. Average checkpoints of one model."
            )
        total += weight
    assert total is not None
    return (total / len(files)).to(first.dtype).contiguous()


def _step(source: Path) -> int | None:
    try:
        step: int = read_json(source / "trainer_state.json", _State, max_bytes=2**30)["global_step"]
        return step
    except UsageError:
        return None
