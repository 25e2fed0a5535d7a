"""Checkpoints are complete or absent, also after a kill while one was being replaced."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import runs
import torch
from transformers import TrainingArguments

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.checkpointing import CheckpointWriter, read_rank_states, read_state
from llm_jp_modernbert.training.run.checkpoints import CheckpointError, checkpoints, damage, publish, rotate
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


def test_staging_directory_stays_until_all_ranks_have_finished(tmp_path: Path) -> None:
    staged: list[bool] = []
    writer = CheckpointWriter(
        TrainingArguments(str(tmp_path), use_cpu=True), lambda: staged.append(writer.staging.is_dir())
    )
    with writer.cleanup():
        writer.staging.mkdir()
    assert staged == [True]
    assert not writer.staging.exists()


def test_rotation_keeps_the_newest_and_requested_steps(tmp_path: Path) -> None:
    for step in (5, 10, 15, 100, 20):
        newest = write_checkpoint(tmp_path, step, "weights")
    rotate(tmp_path, 2, newest, kept=[10])
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-20", "checkpoint-100"]
    rotate(tmp_path, None, newest)
    assert len(checkpoints(tmp_path)) == 3


@pytest.fixture(scope="module")
def run(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A run of five steps with one checkpoint."""
    keys = runs.recipe(*data, tmp_path_factory.mktemp("whole") / "run", max_steps=5)
    runs.run(keys)
    return keys, Path(keys["output_dir"])


# Parseable JSON of the wrong type, and what is not JSON at all.
ODD = ["", "{", "[]", "null", "7", "{}", "[" * 100_000, '{"files": {"a": 1}}', "\udcff"]
ODD += ['{"files": [], "schema": 1, "stages": {}, "global_step": "5", "log_history": 1, "stream": []}']


@pytest.mark.parametrize("content", ODD)
def test_odd_files_of_a_checkpoint_are_named(tmp_path: Path, content: str) -> None:
    for name in ("seal.json", "trainer_state.json", "data.json"):
        (tmp_path / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    assert "seal.json" in (damage(tmp_path) or "")
    with pytest.raises((UsageError, CheckpointError), match=r"trainer_state\.json: ") as first:
        read_state(tmp_path)
    with pytest.raises((UsageError, CheckpointError), match=r"data\.json: ") as second:
        read_rank_states(tmp_path)
    assert "\n" not in f"{first.value}{second.value}"


@pytest.mark.parametrize("opened", [None, [None], [[1]], [[None, 1]], {"0": 1}], ids=str)
def test_odd_position_in_the_data_is_named(run: tuple[dict[str, Any], Path], tmp_path: Path, opened: Any) -> None:
    state = json.loads(next(run[1].glob("checkpoint-*/data.json")).read_text(encoding="utf-8"))
    next(iter(state["ranks"][0]["stream"]["lanes"].values()))["begin"][0]["open"] = opened
    (tmp_path / "data.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(UsageError, match=r"data\.json: ranks\.0\.stream\.lanes\.0\.begin\.0\.open"):
        read_rank_states(tmp_path)


def test_states_of_earlier_versions_are_read(run: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """They wrote a file for each rank."""
    states = read_rank_states(next(run[1].glob("checkpoint-*")))
    for rank, state in enumerate([*states, *states]):
        (tmp_path / f"data-{rank:05d}.json").write_text(json.dumps(state), encoding="utf-8")
    assert read_rank_states(tmp_path) == [*states, *states]


@pytest.mark.parametrize("content", ["[]", "7", "null", "[" * 100_000, "[" * 9999 + "]" * 9999, "{7}", "\udcff"])
def test_odd_run_json_is_named(run: tuple[dict[str, Any], Path], tmp_path: Path, content: str) -> None:
    shutil.copytree(run[1], tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UsageError, match=r"run\.json: .* Remove the file, or use a different directory") as error:
        open_run(runs.load({**run[0], "output_dir": str(tmp_path / "run"), "resume_from_checkpoint": True}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, "", '{"seed": 42, "learning', "\0" * 99])
def test_incomplete_run_json_is_replaced_by_the_recipe_of_a_checkpoint(
    run: tuple[dict[str, Any], Path], tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    keys, folder = run
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    (copy / "run.json").unlink()
    if content is not None:
        (copy / "run.json").write_text(content)
    again = {**keys, "output_dir": str(copy), "resume_from_checkpoint": True}
    with pytest.raises(UsageError, match=r"the recipe differs from that of .*learning_rate: 0\.001 then, 0\.5 now"):
        open_run(runs.load({**again, "learning_rate": 0.5}))
    recipe = runs.load(again)
    assert open_run(recipe) == copy / "checkpoint-5"
    assert "run.json" in caplog.text
    claim_run(recipe)
    assert json.loads((copy / "run.json").read_text()) == json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("left", [[], ["run.json"], ["recipe.yaml"], [".run.json.7"], ["run.json", ".recipe.yaml.7"]])
def test_run_killed_at_its_beginning_starts_again(
    run: tuple[dict[str, Any], Path], tmp_path: Path, left: list[str]
) -> None:
    keys, folder = run
    copy = tmp_path / "run"
    copy.mkdir()
    for name in left:
        whole = (folder / name).read_text() if name == "recipe.yaml" else "{"
        (copy / name).write_text(whole)
    for resume in (True, None):
        assert open_run(runs.load({**keys, "output_dir": str(copy), "resume_from_checkpoint": resume})) is None


def test_recipe_written_by_hand_is_not_overwritten(run: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("extends: nano\n")
    with pytest.raises(UsageError, match="is not empty and not a run directory"):
        open_run(runs.load({**run[0], "output_dir": str(tmp_path / "run")}))


@pytest.mark.parametrize("step", [0, 5, None])
def test_full_disk_loses_nothing(
    run: tuple[dict[str, Any], Path], tmp_path: Path, step: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the rehearsal before the first step, at a checkpoint, and when the trained model is saved."""
    saved = LlmJpModernBertForMaskedLM.save_pretrained
    place = ".saving" if step is None else f"checkpoint-{step}"

    def full(self: Any, directory: str, *args: Any, **kwargs: Any) -> None:
        saved(self, directory, *args, **kwargs)
        if Path(directory).name == place:
            raise RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 320 vs 218")

    keys = {**run[0], "output_dir": str(tmp_path / "run")}
    monkeypatch.setattr(LlmJpModernBertForMaskedLM, "save_pretrained", full)
    intact = "checkpoint-5 is intact" if step is None else "no earlier checkpoint exists"
    with pytest.raises(
        CheckpointError, match=rf"could not be written \(.*{intact}\. Free disk space and resume"
    ) as error:
        runs.run(keys)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / ".saving").exists()
    monkeypatch.undo()
    runs.run({**keys, "resume_from_checkpoint": True})
    runs.assert_equal_runs(run[1], tmp_path / "run", 5)


def test_killed_data_worker_ends_the_run_with_one_line(
    run: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = psutil.Process().children()  # other tests of this process may have left some

    def kill(*args: Any, **kwargs: Any) -> None:
        for child in psutil.Process().children():
            if child not in earlier:
                child.kill()

    step = torch.optim.AdamW.step
    keys = {**run[0], "output_dir": str(tmp_path / "run"), "dataloader_num_workers": 1, "max_steps": 100}
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda *args, **kwargs: (step(*args, **kwargs), kill())[0])
        with pytest.raises(CheckpointError, match=r"process that prepares data was killed.*Resume with") as error:
            runs.run(keys)
    assert "\n" not in str(error.value)
    assert signal.getsignal(signal.SIGINT) is before
