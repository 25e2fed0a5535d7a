"""Checkpoints reach their revisions, whether or not the Hub is there all the time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from safetensors.torch import load

from llm_jp_modernbert.core.hub import checkpoints
from llm_jp_modernbert.publishing.release import prepare_checkpoint
from llm_jp_modernbert.training.run import publishing
from llm_jp_modernbert.training.run.publishing import RevisionPublisher

REPOSITORY = "org/name"


def checkpoint(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(content)
    (folder / "optimizer.pt").write_text("nobody else's")
    return folder


def publisher(hub: LoopbackHub, waiting: Path, say: Callable[[str], Any], token: str | None = None) -> Any:
    api = HfApi(endpoint=hub.url, token=token or hub.token)
    return RevisionPublisher(REPOSITORY, waiting, True, None, say, api, retry_seconds=(0.1,))


def files(hub: LoopbackHub, revision: str) -> list[str]:
    commit = hub.repositories["model", REPOSITORY].find(revision)
    assert commit is not None
    return sorted(commit.files)


def test_every_revision_has_its_own_weights(hub: LoopbackHub, tmp_path: Path) -> None:
    said: list[str] = []
    pushing = publisher(hub, tmp_path / "waiting", said.append)
    for step in (10, 20, 30):
        folder = checkpoint(tmp_path / f"checkpoint-{step}", f"weights of {step}")
        pushing.submit(folder, f"stage1-step-{step}")
        # The run may rotate it away at once.
        for file in folder.iterdir():
            file.unlink()
    assert pushing.finish(30) == []
    assert said == []
    for step in (10, 20, 30):
        assert hub.read(REPOSITORY, "model.safetensors", f"stage1-step-{step}") == f"weights of {step}".encode()
        assert files(hub, f"stage1-step-{step}") == [".gitattributes", "config.json", "model.safetensors"]
    assert hub.repositories["model", REPOSITORY].private
    assert list((tmp_path / "waiting").iterdir()) == []


def test_the_hub_may_be_away(hub: LoopbackHub, tmp_path: Path) -> None:
    said: list[str] = []
    hub.down()
    pushing = publisher(hub, tmp_path / "waiting", said.append)
    began = time.perf_counter()
    pushing.submit(checkpoint(tmp_path / "a", "a"), "a")
    pushing.submit(checkpoint(tmp_path / "b", "b"), "b")
    assert time.perf_counter() - began < 5
    assert sorted(pushing.finish(1.5)) == ["a", "b"]
    assert len(said) == 1
    assert "cannot be reached" in said[0]
    # The next process pushes what is left.
    hub.up()
    assert publisher(hub, tmp_path / "waiting", said.append).finish(30) == []
    assert (hub.read(REPOSITORY, "model.safetensors", "a"), hub.read(REPOSITORY, "model.safetensors", "b")) == (
        b"a",
        b"b",
    )


def test_pushing_what_is_there_makes_no_commit(hub: LoopbackHub, tmp_path: Path) -> None:
    for turn in range(2):
        pushing = publisher(hub, tmp_path / "waiting", print)
        pushing.submit(checkpoint(tmp_path / f"{turn}", "same"), "a")
        assert pushing.finish(30) == []
    repository = hub.repositories["model", REPOSITORY]
    commit = repository.find("a")
    assert commit is not None
    assert len(repository.history(commit)) == 2


def test_what_is_submitted_while_it_is_pushed_is_pushed_again(hub: LoopbackHub, tmp_path: Path) -> None:
    pushing = publisher(hub, tmp_path / "waiting", print)
    commit = pushing._api.create_commit

    def slow(*args: Any, **kwargs: Any) -> Any:
        if not (tmp_path / "second").exists():
            pushing.submit(checkpoint(tmp_path / "second", "newer"), "a")
        return commit(*args, **kwargs)

    pushing._api.create_commit = slow
    pushing.submit(checkpoint(tmp_path / "first", "older"), "a")
    assert pushing.finish(30) == []
    assert hub.read(REPOSITORY, "model.safetensors", "a") == b"newer"


def test_a_snapshot_that_cannot_be_taken_is_told(hub: LoopbackHub, tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("x")
    pushing = publisher(hub, tmp_path / "file" / "waiting", said.append)
    pushing.submit(checkpoint(tmp_path / "a", "a"), "a")
    assert "org/name: a cannot be pushed: Not a directory" in said[0]


def test_all_ranks_save_what_one_publishes(
    data: tuple[Path, Path], hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "HfApi", lambda token: HfApi(endpoint=hub.url, token=hub.token))
    changes = {"push_to_hub": True, "hub_model_id": REPOSITORY, "publish_steps": [7], "max_steps": 9}
    assert runs.run_apart(runs.recipe(*data, tmp_path / "run", **changes), ranks=2) == [0, 0]
    assert "stage1-step-7" in hub.repositories["model", REPOSITORY].branches


def test_a_wrong_token_is_told_without_it(hub: LoopbackHub, tmp_path: Path) -> None:
    said: list[str] = []
    pushing = publisher(hub, tmp_path / "waiting", said.append, token="hf_a_secret")
    pushing.submit(checkpoint(tmp_path / "a", "a"), "a")
    assert pushing.finish(30) == ["a"]
    assert len(said) == 1
    assert "org/name: a cannot be pushed: the Hub does not know the token (401)" in said[0]
    assert "secret" not in said[0]


def test_a_run_publishes_its_checkpoints(
    data: tuple[Path, Path], hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "HfApi", lambda token: HfApi(endpoint=hub.url, token=hub.token))
    monkeypatch.setattr(publishing, "_RETRY_SECONDS", (0.1,))
    changes = {"push_to_hub": True, "hub_model_id": REPOSITORY, "publish_steps": [7, 20, 40], "save_total_limit": 1}
    runs.run(runs.recipe(*data, tmp_path / "run", **changes), prepare=prepare_checkpoint)
    branches = hub.repositories["model", REPOSITORY].branches
    assert sorted(branches) == ["main", "stage1-step-20", "stage1-step-40", "stage1-step-7"]
    contents = [load(hub.read(REPOSITORY, "model.safetensors", f"stage1-step-{step}")) for step in (7, 20, 40)]
    embedding = "model.embeddings.tok_embeddings.weight"
    assert len({weights[embedding].numpy().tobytes() for weights in contents}) == 3
    assert (
        hub.read(REPOSITORY, "model.safetensors", "stage1-step-40")
        == (tmp_path / "run" / "model.safetensors").read_bytes()
    )
    # Each has a card, whose table names the ones before it, with steps and tokens.
    listed = checkpoints(HfApi(endpoint=hub.url, token=hub.token), REPOSITORY)
    assert [one.step for one in listed] == [7, 20, 40]
    card = hub.read(REPOSITORY, "README.md", "stage1-step-40").decode()
    for one in listed[:2]:
        (row,) = [line for line in card.splitlines() if line.startswith("|") and one.revision in line]
        assert f"{one.step:,}" in row
        assert one.tokens is not None
        assert f"{one.tokens:,}" in row
    everything = b"".join(hub.read(REPOSITORY, path, "stage1-step-40") for path in ("README.md", "recipe.yaml"))
    assert str(tmp_path).encode() not in everything
    code = (
        "from transformers import AutoModelForMaskedLM, AutoTokenizer as T; import sys;"
        "m = AutoModelForMaskedLM.from_pretrained('org/name', revision='stage1-step-20');"
        "t = T.from_pretrained('org/name', revision='stage1-step-20');"
        "print(type(m).__name__, m.config.vocab_size == len(t), 'llm_jp_modernbert' in sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **hub.environment(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert loaded.stdout.strip() == "ModernBertForMaskedLM True False", loaded.stderr
