"""A run reports the compilation of its layers, or why it is not possible."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import runs

Data = tuple[Path, Path]


def test_compiling_is_reported(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="llm_jp_modernbert")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/kernels")
    changes = {"max_steps": 3, "warmup_steps": 0, "save_strategy": "no", "torch_compile": True}
    runs.run(runs.recipe(*data, tmp_path / "run", **changes, torch_compile_backend="eager"))
    assert "The first step compiles the layers" in caplog.text
    assert "Compiled kernels are kept in /kernels (TORCHINDUCTOR_CACHE_DIR)" in caplog.text
    (line,) = [message for message in caplog.messages if "first step, with compiling:" in message]
    assert line.endswith(" s")


def test_missing_compiler_is_named(data: Data, tmp_path: Path) -> None:
    recipe = runs.recipe(*data, tmp_path / "run", torch_compile=True)
    overrides = [f"{key}={value}" for key, value in recipe.items() if key != "model"]
    command = [sys.executable, "-m", "llm_jp_modernbert", "pretrain", "nano", "tokens_per_batch=null", *overrides]
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")}
    completed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert completed.returncode == 1
    (line,) = [line for line in completed.stderr.splitlines() if "Error:" in line]
    assert line.startswith("Error: torch_compile: layers cannot be compiled here (InvalidCxxCompiler: ")
    assert line.endswith("Install a C++ compiler (g++), or set torch_compile=false, which is slower.")
    assert not (tmp_path / "run").exists()
