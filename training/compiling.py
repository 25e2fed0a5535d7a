"""Compilation of layers: whether torch.compile works on this machine, and where it keeps compiled kernels."""

from __future__ import annotations

import os
from typing import Any

import torch

from llm_jp_modernbert.core.errors import UsageError, first_line

from .recipe.arguments import PretrainingArguments

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable of torch's directory of compiled kernels. torch sets it to its default when it compiles."""


def check_compiler(recipe: PretrainingArguments) -> None:
    """Compiles a small function if the recipe compiles layers, before data and model are loaded.

    Raises:
        UsageError: compiling fails, for example because the machine has no C++ compiler or no Triton.
    """
    if not recipe.torch_compile:
        return
    options: Any = {"backend": recipe.torch_compile_backend, "mode": recipe.torch_compile_mode}
    try:
        torch.compile(_doubled, **options)(torch.ones(16, device=recipe.device))
    except (RuntimeError, OSError) as error:
        tool = "a C++ compiler (g++)" if recipe.device.type == "cpu" else "Triton and a C compiler (gcc)"
        raise UsageError(
            f"torch_compile: layers cannot be compiled here ({first_line(error)}). Install {tool}, or set "
            "torch_compile=false, which is slower."
        ) from error


def start_lines(recipe: PretrainingArguments) -> list[str]:
    """Log lines of a run about the compilation of its layers; none if they are not compiled."""
    if not recipe.torch_compile:
        return []
    lines = ["  The first step compiles the layers, which can take minutes."]
    directory = os.environ.get(CACHE)
    return lines if directory is None else [*lines, f"  Compiled kernels are kept in {directory} ({CACHE})."]


def _doubled(values: torch.Tensor) -> torch.Tensor:
    return values.sin() * 2
