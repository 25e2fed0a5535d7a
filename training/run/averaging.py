"""The mean of several checkpoints' weights, which is often better than the last of them alone.

ModernBERT averages the last checkpoints of a phase; with a learning rate that decays to zero the gain is small, on a
plateau it is most of what the decay would bring.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_WEIGHTS, _INDEX, _CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
PROVENANCE = "averaged_from.json"
"""The file that names the checkpoints that a mean is of."""

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# What else of a checkpoint makes it usable.
_COPIED = (
    _CONFIG,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "recipe.yaml",
    "training.json",
)


def latest_checkpoints(run: str | os.PathLike[str], count: int) -> list[Path]:
    """The last checkpoints of a run, oldest first.

    Args:
        run: a run's directory, with folders named `checkpoint-STEP`.
        count: how many.

    Raises:
        ValueError: there are not so many.
    """
    found = sorted(
        (path for path in Path(run).glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name)),
        key=lambda path: int(path.name.rpartition("-")[2]),
    )
    if len(found) < count:
        raise ValueError(f"{run} holds {len(found)} checkpoints, not {count}. Name a run that kept so many.")
    return found[-count:]


def average_checkpoints(directories: Sequence[str | os.PathLike[str]], out_dir: str | os.PathLike[str]) -> Path:
    """Writes a checkpoint whose every weight is the mean of those of others, summed in double precision.

    Args:
        directories: of at least two checkpoints of one model; tokenizer and configuration are those of the last.
        out_dir: the directory to write, which must not exist or be empty.

    Returns:
        The directory. `averaged_from.json` in it names the checkpoints.

    Raises:
        ValueError: fewer than two checkpoints, one without weights, other weights in one than in the first, or an
            `out_dir` that holds something.
    """
    sources = [Path(directory) for directory in directories]
    if len(sources) < 2:
        raise ValueError("a mean wants at least two checkpoints.")
    files = [_files_of(source) for source in sources]
    for source, found in zip(sources[1:], files[1:], strict=True):
        if found.keys() != files[0].keys():
            other = sorted(found.keys() ^ files[0].keys())[0]
            raise ValueError(f"{source} holds other weights than {sources[0]}: {other} is in one of them alone.")
    out = Path(out_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty. Name a new directory.")
    mean = {name: _mean(name, sources, [found[name] for found in files]) for name in sorted(files[0])}
    written = out.with_name(f".{out.name}.{os.getpid()}.new")
    shutil.rmtree(written, ignore_errors=True)
    written.mkdir(parents=True)
    try:
        save_file(mean, written / _WEIGHTS, metadata={"format": "pt"})
        # A native checkpoint brings its code, which config.json points to.
        for name in (*_COPIED, *(path.name for path in sources[-1].glob("*.py"))):
            if (sources[-1] / name).is_file():
                shutil.copy(sources[-1] / name, written / name)
        provenance = [{"name": source.name, "step": _step(source)} for source in sources]
        (written / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        os.replace(written, out)
    finally:
        shutil.rmtree(written, ignore_errors=True)
    return out


def _files_of(source: Path) -> dict[str, Path]:
    """The file of every weight."""
    if not (source / _CONFIG).is_file():
        raise ValueError(f"{source} holds no {_CONFIG}, so it is no checkpoint. Name a directory of save_pretrained.")
    try:
        if (source / _INDEX).is_file():
            index = json.loads((source / _INDEX).read_text(encoding="utf-8"))["weight_map"]
            return {name: source / file for name, file in index.items()}
        with safe_open(source / _WEIGHTS, "pt") as weights:
            return dict.fromkeys(weights.keys(), source / _WEIGHTS)
    except Exception as error:  # safetensors has errors of its own
        raise ValueError(f"{source}: its weights cannot be read ({error}). Only safetensors are read.") from error


def _mean(name: str, sources: Sequence[Path], files: Sequence[Path]) -> torch.Tensor:
    total: torch.Tensor | None = None
    for source, file in zip(sources, files, strict=True):
        with safe_open(file, "pt") as weights:
            weight = weights.get_tensor(name)
        if total is None:
            first, total = weight, weight.double()
        elif weight.shape != first.shape or weight.dtype != first.dtype:
            raise ValueError(
                f"{source}: {name} is {tuple(weight.shape)} {weight.dtype}, but in {sources[0]} {tuple(first.shape)} "
                f"{first.dtype}. Average checkpoints of one model."
            )
        else:
            total += weight.double()
    assert total is not None
    return (total / len(sources)).to(first.dtype).contiguous()


def _step(source: Path) -> Any:
    try:
        return json.loads((source / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    except (OSError, ValueError, KeyError):
        return None
