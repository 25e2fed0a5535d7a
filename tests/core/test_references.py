"""Each rule for local paths, repositories and checkpoint names is implemented once."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_jp_modernbert.core.checkpoint_names import CheckpointName
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.references import ModelReference, is_local_path


@pytest.mark.parametrize("text", ["./model", "../model", "/abs/model", "~/model", "runs/nano/step/5", "model/", "."])
def test_paths_are_local(text: str) -> None:
    assert is_local_path(text)
    assert ModelReference.parse(text).revision is None


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("llm-jp/model", "llm-jp/model", None),
        ("gpt2", "gpt2", None),
        ("llm-jp/model@main", "llm-jp/model", "main"),
        ("llm-jp/model@refs/pr/1", "llm-jp/model", "refs/pr/1"),
    ],
)
def test_repositories_may_have_a_revision(text: str, name: str, revision: str | None) -> None:
    reference = ModelReference.parse(text)
    assert (reference.name, reference.revision, reference.is_local) == (name, revision, False)
    assert str(reference) == text


def test_existing_directory_wins_over_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name@main").mkdir(parents=True)
    assert ModelReference.parse("org/name@main") == ModelReference("org/name@main")
    with pytest.raises(UsageError, match="local path"):
        ModelReference.parse("org/name@main", revision="v1")


def test_two_revisions_are_an_error() -> None:
    assert ModelReference.parse("org/name@v1", "v1").revision == "v1"
    with pytest.raises(UsageError, match="--revision"):
        ModelReference.parse("org/name@v1", "v2")


def test_check_model_names_the_missing_part(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        ModelReference.parse(str(tmp_path / "absent")).check_model()
    with pytest.raises(UsageError, match=r"config\.json"):
        ModelReference.parse(str(tmp_path)).check_model()
    (tmp_path / "config.json").write_text("{}")
    ModelReference.parse(str(tmp_path)).check_model()
    with pytest.raises(UsageError, match="is a file"):
        ModelReference.parse(str(tmp_path / "config.json")).check_model()


@pytest.mark.parametrize(
    ("text", "origin", "stage", "step"),
    [
        ("checkpoint-200", "", "checkpoint", 200),
        ("stage1-step-500", "", "stage1", 500),
        ("stage2-200k", "", "stage2", 200_000),
        ("org/name@stage1-15k", "org/name@", "stage1", 15_000),
        ("org/name@15000", "org/name@", "", 15_000),
        ("runs/nano/checkpoint-7", "runs/nano/", "checkpoint", 7),
        ("org/name@stage2-theta10000-step-40", "org/name@", "stage2-theta10000", 40),
    ],
)
def test_checkpoint_names(text: str, origin: str, stage: str, step: int) -> None:
    assert CheckpointName.parse(text) == CheckpointName(origin, stage, step)


@pytest.mark.parametrize("text", ["main", "checkpoint-", "model-v3", "checkpoint-5x"])
def test_other_names_are_not_checkpoints(text: str) -> None:
    assert CheckpointName.parse(text) is None
