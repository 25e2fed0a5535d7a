"""A small release, and a Hub to send it to, for several files of tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from alone import REFUSE
from checkpoints import write_checkpoint
from loopback_hub import LoopbackHub

from llm_jp_modernbert.core.hub import Patience
from llm_jp_modernbert.evaluation.report.results import Measurement, Results, Run

NAME = "org/name"
QUICK = Patience(say=lambda line: None, waits=(0.01, 0.01, 0.01))
"""Patience that costs no time."""


def write_source(folder: Path) -> Path:
    """A model to release."""
    return write_checkpoint(folder)


def write_results(folder: Path, model: Path) -> Path:
    """Results of it, and of another."""
    from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName

    results = Results(folder)
    for name, revision, value in (
        (str(model), EvaluatedModel(ModelName(str(model))).revision, 0.25),
        ("other/model", "0" * 40, 0.75),
    ):
        run = Run("fill-mask", name, revision, "improved", {}, 0, "fill-mask prompts", "sha256:1", "test", 4)
        measured = [Measurement("top1_accuracy", value), Measurement("top1_accuracy", value, subset="facts")]
        results.write(run, measured, [{"id": "1", "text": "秘密の例文", "rank": 1}])
    return folder


def in_process(code: str, hub: LoopbackHub, home: Path, refuse: bool = True, token: str | None = None) -> str:
    """What a Python process prints that talks to the Hub; by default one without this package."""
    environment = {**os.environ, **hub.environment(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if token is not None:
        environment["HF_TOKEN"] = token
    return _run([sys.executable, "-c", (REFUSE if refuse else "") + code], environment).stdout


def command(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "llm_jp_modernbert", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(arguments, capture_output=True, text=True, env=dict(environment))
    assert done.returncode == 0, done.stderr
    return done
