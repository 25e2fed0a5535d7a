"""Runs `step_cost_cases.py` in a process of its own: the stand-in for a GPU stays registered with torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("marker", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_cases_pass_in_their_own_process(marker: str) -> None:
    cases = Path(__file__).with_name("step_cost_cases.py")
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "-m", marker, str(cases)]
    run = subprocess.run(command, cwd=cases.parents[2], capture_output=True, text=True, errors="replace")
    assert run.returncode == 0, run.stdout + run.stderr
