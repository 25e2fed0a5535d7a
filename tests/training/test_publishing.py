"""Checkpoints are pushed to their revisions, also after outages of the Hub and kills of the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
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


def checkpoint(run: Path, step: int, content: str | None = None) -> Path:
    folder = run / f"checkpoint-{step}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(content or f"weights of {step}")
    (folder / "optimizer.pt").write_text("not published")
    return folder


def client(hub: LoopbackHub, token: str | None = None) -> HfApi:
    return HfApi(endpoint=hub.url, token=token or hub.token)


def publisher(hub: LoopbackHub, run: Path, **changes: Any) -> RevisionPublisher:
    changes = {"private": True, "api": client(hub), "retry_seconds": 0.1, **changes}
    return RevisionPublisher(REPOSITORY, run, "stage1", **changes)


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def weights(hub: LoopbackHub, step: int) -> str:
    return hub.read(REPOSITORY, "model.safetensors", f"stage1-step-{step}").decode()


def commits(hub: LoopbackHub, revision: str) -> list[Any]:
    repository = hub.repositories["model", REPOSITORY]
    commit = repository.find(revision)
    assert commit is not None
    return list(repository.history(commit))


def files(hub: LoopbackHub, revision: str) -> list[str]:
    commit = hub.repositories["model", REPOSITORY].find(revision)
    assert commit is not None
    return sorted(commit.files)


def test_rotated_checkpoints_are_pushed_to_their_revisions(
    hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pushing = publisher(hub, tmp_path)
    for step in (10, 20, 30):
        folder = checkpoint(tmp_path, step)
        pushing.submit(folder)
        shutil.rmtree(folder)
    assert pushing.finish(120) == []
    assert not caplog.records
    for step in (10, 20, 30):
        assert weights(hub, step) == f"weights of {step}"
        assert files(hub, f"stage1-step-{step}") == [".gitattributes", "config.json", "model.safetensors"]
    assert hub.repositories["model", REPOSITORY].private
    assert list((tmp_path / "unpublished").iterdir()) == []


def test_checkpoints_are_pushed_in_order_after_an_outage(
    hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.down()
    pushing = publisher(hub, tmp_path)
    began = time.perf_counter()
    # Not in the order of steps, and not in that of their names.
    for step in (100, 20, 3):
        pushing.submit(checkpoint(tmp_path, step))
    assert time.perf_counter() - began < 20
    revisions = ["stage1-step-3", "stage1-step-20", "stage1-step-100"]
    wait_for(lambda: "cannot be reached" in caplog.text)
    assert pushing.finish(1.5) == revisions
    wait_for(lambda: all(thread.name != "publisher" for thread in threading.enumerate()))
    assert sum("cannot be reached" in record.message for record in caplog.records) == 1
    for step in (3, 20, 100):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    hub.up()
    pushed: list[str] = []

    def prepare(api: HfApi, repository: str, folder: Path) -> None:
        pushed.append((folder / "model.safetensors").read_text())

    # The next process finds the snapshots.
    assert publisher(hub, tmp_path, prepare=prepare).finish(120) == []
    assert pushed == [f"weights of {step}" for step in (3, 20, 100)]
    assert [weights(hub, step) for step in (3, 20, 100)] == pushed


def test_running_publisher_recovers_from_an_outage(
    hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "llm_jp_modernbert")
    hub.down()
    pushing = publisher(hub, tmp_path)
    pushing.submit(checkpoint(tmp_path, 10))
    wait_for(lambda: "cannot be reached" in caplog.text)
    hub.up()
    pushing.submit(checkpoint(tmp_path, 20))
    assert pushing.finish(120) == []
    assert [weights(hub, step) for step in (10, 20)] == ["weights of 10", "weights of 20"]
    assert "is reachable again" in caplog.text


def test_checkpoints_of_a_killed_process_are_found_by_the_next(hub: LoopbackHub, tmp_path: Path) -> None:
    """A process killed after writing a checkpoint, but before submitting it, leaves no snapshot."""
    pushing = publisher(hub, tmp_path)
    pushing.submit(checkpoint(tmp_path, 10))
    assert pushing.finish(120) == []
    for step in (20, 30):
        checkpoint(tmp_path, step)
    # Interrupted while pushing.
    os.rename(checkpoint(tmp_path / "other", 15), tmp_path / "unpublished" / ".stage1-step-15.pushing")
    assert publisher(hub, tmp_path, steps=[10, 15, 30]).finish(120) == []
    branches = hub.repositories["model", REPOSITORY].branches
    assert sorted(branches) == ["main", "stage1-step-10", "stage1-step-15", "stage1-step-30"]
    assert weights(hub, 15) == "weights of 15"


def test_silent_hub_does_not_delay_the_run(hub: LoopbackHub, tmp_path: Path) -> None:
    """Checkpoints of an earlier process are compared with the Hub in the background."""
    first = publisher(hub, tmp_path)
    first.submit(checkpoint(tmp_path, 10))
    assert first.finish(120) == []
    checkpoint(tmp_path, 20)
    api, answer = client(hub), threading.Event()
    list_repo_refs = api.list_repo_refs

    def silent(*args: Any, **kwargs: Any) -> Any:
        assert answer.wait(120)
        return list_repo_refs(*args, **kwargs)

    api.list_repo_refs = silent  # type: ignore[method-assign]
    began = time.perf_counter()
    pushing = publisher(hub, tmp_path, api=api)
    assert time.perf_counter() - began < 20
    # The checkpoint may be removed before the Hub answers.
    shutil.rmtree(tmp_path / "checkpoint-20")
    answer.set()
    assert pushing.finish(120) == []
    assert weights(hub, 20) == "weights of 20"


def test_pushing_an_unchanged_checkpoint_makes_no_commit(hub: LoopbackHub, tmp_path: Path) -> None:
    for _ in range(2):
        pushing = publisher(hub, tmp_path)
        pushing.submit(checkpoint(tmp_path, 10))
        assert pushing.finish(120) == []
    assert len(commits(hub, "stage1-step-10")) == 2


def test_checkpoint_saved_again_during_its_push_is_pushed_again(hub: LoopbackHub, tmp_path: Path) -> None:
    api = client(hub)
    commit = api.create_commit
    pushing = publisher(hub, tmp_path, api=api)
    resubmitted = threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        if not resubmitted.is_set():
            resubmitted.set()
            pushing.submit(checkpoint(tmp_path, 10, "newer"))
        return commit(*args, **kwargs)

    api.create_commit = slow  # type: ignore[method-assign]
    pushing.submit(checkpoint(tmp_path, 10, "older"))
    assert pushing.finish(120) == []
    assert weights(hub, 10) == "newer"


def test_failing_snapshot_is_a_warning(hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("x")
    publisher(hub, tmp_path / "file").submit(checkpoint(tmp_path, 10))
    assert "org/name: stage1-step-10 cannot be pushed: Not a directory" in caplog.text


def test_publish_steps_are_saved_on_all_ranks(
    data: tuple[Path, Path], hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "HfApi", lambda token: HfApi(endpoint=hub.url, token=hub.token))
    changes = {"push_to_hub": True, "hub_model_id": REPOSITORY, "publish_steps": [7], "max_steps": 9}
    assert runs.run_apart(runs.recipe(*data, tmp_path / "run", **changes), ranks=2) == [0, 0]
    assert "stage1-step-7" in hub.repositories["model", REPOSITORY].branches


def test_untrained_model_is_published(
    data: tuple[Path, Path], hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "HfApi", lambda token: HfApi(endpoint=hub.url, token=hub.token))
    changes = {"push_to_hub": True, "hub_model_id": REPOSITORY, "publish_steps": [0], "max_steps": 2}
    runs.run(runs.recipe(*data, tmp_path / "run", warmup_steps=0, **changes))
    assert sorted(hub.repositories["model", REPOSITORY].branches) == ["main", "stage1-step-0"]


def test_invalid_token_is_a_warning_without_the_token(
    hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pushing = publisher(hub, tmp_path, api=client(hub, "hf_a_secret"))
    pushing.submit(checkpoint(tmp_path, 10))
    assert pushing.finish(120) == ["stage1-step-10"]
    (failure, left) = [record.message for record in caplog.records]
    assert "org/name: stage1-step-10 cannot be pushed: " in failure
    assert "token (401)" in failure
    assert "stage1-step-10" in left
    assert "secret" not in caplog.text


def test_run_publishes_its_checkpoints_with_cards(
    data: tuple[Path, Path], hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "HfApi", lambda token: HfApi(endpoint=hub.url, token=hub.token))
    changes = {"push_to_hub": True, "hub_model_id": REPOSITORY, "publish_steps": [7, 20, 40], "save_total_limit": 1}
    runs.run(runs.recipe(*data, tmp_path / "run", **changes), prepare=prepare_checkpoint)
    branches = hub.repositories["model", REPOSITORY].branches
    assert sorted(branches) == ["main", "stage1-step-20", "stage1-step-40", "stage1-step-7"]
    contents = [load(hub.read(REPOSITORY, "model.safetensors", f"stage1-step-{step}")) for step in (7, 20, 40)]
    embedding = "model.embeddings.tok_embeddings.weight"
    assert len({tensors[embedding].numpy().tobytes() for tensors in contents}) == 3
    assert (
        hub.read(REPOSITORY, "model.safetensors", "stage1-step-40")
        == (tmp_path / "run" / "model.safetensors").read_bytes()
    )
    # Every card lists the earlier checkpoints with steps and tokens.
    listed = checkpoints(HfApi(endpoint=hub.url, token=hub.token), REPOSITORY)
    assert [entry.step for entry in listed] == [7, 20, 40]
    card = hub.read(REPOSITORY, "README.md", "stage1-step-40").decode()
    for earlier in listed[:2]:
        (row,) = [line for line in card.splitlines() if line.startswith("|") and earlier.revision in line]
        assert f"{earlier.step:,}" in row
        assert earlier.tokens is not None
        assert f"{earlier.tokens:,}" in row
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
