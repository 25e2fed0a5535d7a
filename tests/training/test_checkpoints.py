"""Checkpoints are complete or absent, also after a kill while one was being replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import runs

from llm_jp_modernbert.training.run.checkpoints import checkpoints, damage, publish, rotate
from llm_jp_modernbert.training.run.run_directory import claim_run, open_run


def write_checkpoint(run: Path, step: int, content: str) -> Path:
    partial = run / ".saving" / f"checkpoint-{step}"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_text(content)
    publish(partial, run / f"checkpoint-{step}")
    return run / f"checkpoint-{step}"


def test_replaced_checkpoint_has_the_new_content(tmp_path: Path) -> None:
    for content in ("old", "new"):
        checkpoint = write_checkpoint(tmp_path, 5, content)
    assert (checkpoint / "model.safetensors").read_text() == "new"
    assert damage(checkpoint) is None
    assert checkpoints(tmp_path) == [checkpoint]


@pytest.mark.parametrize("renamed", [False, True])
def test_kill_during_replacement_leaves_a_sound_checkpoint(
    data: tuple[Path, Path], tmp_path: Path, renamed: bool
) -> None:
    """The process is killed before or after the new checkpoint has its final name."""
    recipe = runs.load(runs.recipe(*data, tmp_path / "run", resume_from_checkpoint=True))
    (tmp_path / "run").mkdir()
    claim_run(recipe)
    checkpoint = write_checkpoint(tmp_path / "run", 5, "old")
    os.rename(checkpoint, tmp_path / "run" / ".checkpoint-5.replaced")
    if renamed:
        write_checkpoint(tmp_path / "run", 5, "new")
        write_checkpoint(tmp_path / "elsewhere", 5, "old").rename(tmp_path / "run" / ".checkpoint-5.replaced")
    (tmp_path / "run" / ".saving" / "checkpoint-10").mkdir(parents=True, exist_ok=True)
    assert open_run(recipe) == checkpoint
    assert (checkpoint / "model.safetensors").read_text() == ("new" if renamed else "old")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint-5", "recipe.yaml", "run.json"]


def test_rotation_keeps_the_newest_and_requested_steps(tmp_path: Path) -> None:
    for step in (5, 10, 15, 100, 20):
        newest = write_checkpoint(tmp_path, step, "weights")
    rotate(tmp_path, 2, newest, kept=[10])
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-20", "checkpoint-100"]
    rotate(tmp_path, None, newest)
    assert len(checkpoints(tmp_path)) == 3
