"""Runs `step_cost_cases.py` in a process of its own: the stand-in for a GPU stays registered with torch."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import run_forked


@pytest.mark.parametrize("marker", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_cases_pass_in_their_own_process(marker: str) -> None:
    cases = Path(__file__).with_name("step_cost_cases.py")
    run = run_forked("-n0", "-p", "no:cacheprovider", "-m", marker, cases, main=pytest.console_main)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout or marker == "slow"
