"""Helpers of the release tests: a model, its results, and code in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from alone import REFUSE
from checkpoints import write_checkpoint
from loopback_hub import LoopbackHub

from llm_jp_modernbert.core.hub import Patience
from llm_jp_modernbert.core.results import Measurement, Results, Run

NAME = "org/name"
QUICK = Patience(waits=(0.01, 0.01, 0.01))
"""Retries without waiting."""


def write_source(folder: Path) -> Path:
    """Writes a model to release."""
    return write_checkpoint(folder)


def write_staged(folder: Path, name: str) -> Path:
    """Writes a staged release of which one file has a name of its own."""
    from llm_jp_modernbert.publishing.staging import write_manifest

    folder.mkdir()
    for path, content in {"config.json": "{}", f"{name}.txt": name, "model.safetensors": name}.items():
        (folder / path).write_text(content)
    write_manifest(folder)
    return folder


def write_results(folder: Path, model: Path) -> Path:
    """Writes results of the model and of another one."""
    from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName

    results = Results(folder)
    for name, revision, value in (
        (str(model), EvaluatedModel(ModelName(str(model))).revision, 0.25),
        ("other/model", "0" * 40, 0.75),
    ):
        run = Run("fill-mask", name, revision, "default", {}, 0, "fill-mask prompts", "sha256:1", "test", 4)
        scores = [Measurement("top1_accuracy", value), Measurement("top1_accuracy", value, subset="facts")]
        results.write(run, scores, [{"id": "1", "text": "秘密の例文", "rank": 1}])
    return folder


def in_process(code: str, hub: LoopbackHub, home: Path, refuse: bool = True, token: str | None = None) -> str:
    """Runs code in a process that uses the Hub, by default without this package, and returns its output."""
    environment = {**os.environ, **hub.environment(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if token is not None:
        environment["HF_TOKEN"] = token
    arguments = [sys.executable, "-c", (REFUSE if refuse else "") + code]
    run = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return run.stdout
