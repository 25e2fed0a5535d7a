"""Releases that write one branch at the same time leave it with exactly one of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalEntryNotFoundError
from loopback_hub import LoopbackHub
from releases import NAME, QUICK, write_staged

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.hub import Patience
from llm_jp_modernbert.publishing.release import send

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return write_staged(tmp_path / "ours", "a")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return write_staged(tmp_path / "theirs", "b")


def before_the_commit(api: HfApi, action: Callable[[], Any]) -> HfApi:
    """A client that does something, once, between preparing a commit and making it."""
    client, pending = HfApi(endpoint=api.endpoint, token=api.token), [action]
    create = client.create_commit

    def create_commit(*args: Any, **kwargs: Any) -> Any:
        if pending:
            pending.pop()()
        return create(*args, **kwargs)

    client.create_commit = create_commit  # type: ignore[method-assign]
    return client


def contents(hub: LoopbackHub, revision: str) -> dict[str, bytes]:
    files = hub.repositories["model", NAME].find(revision).files
    return {path: hub.read(NAME, path, revision) for path in files if path != ".gitattributes"}


def staged(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("revision", ["main", "v1"])
def test_later_release_deletes_the_files_of_a_concurrent_one(
    hub: LoopbackHub, api: HfApi, ours: Path, theirs: Path, revision: str
) -> None:
    client = before_the_commit(api, lambda: send(api, theirs, NAME, revision, patience=QUICK))
    send(client, ours, NAME, revision, patience=QUICK)
    assert contents(hub, revision) == staged(ours)


def test_failed_release_keeps_the_new_branch_of_another(
    hub: LoopbackHub, api: HfApi, ours: Path, theirs: Path
) -> None:
    def release_and_refuse_the_next() -> None:
        send(api, theirs, NAME, "v1", patience=QUICK)
        hub.fail("POST", "/commit/v1", 403, times=None)

    with pytest.raises(UsageError, match="403"):
        send(before_the_commit(api, release_and_refuse_the_next), ours, NAME, "v1", patience=QUICK)
    assert contents(hub, "v1") == staged(theirs)


def test_concurrent_releases_leave_one_complete_release(
    hub: LoopbackHub, api: HfApi, ours: Path, theirs: Path
) -> None:
    api.create_repo(NAME)
    patience = Patience(waits=(0.01,) * 10)

    def run(folder: Path, revision: str) -> bool:
        with suppress(UsageError):
            send(HfApi(endpoint=hub.url, token=hub.token), folder, NAME, revision, patience=patience)
            return True
        return False

    with ThreadPoolExecutor(2) as pool:
        for attempt in range(6):
            revision = f"v{attempt}"
            # In every second attempt, the first commit is refused.
            hub.fail("POST", f"/commit/{revision}", 403, times=attempt % 2)
            succeeded = list(pool.map(run, (ours, theirs), (revision, revision)))
            assert sum(succeeded) == 2 - attempt % 2
            kept = [staged(folder) for folder, success in zip((ours, theirs), succeeded, strict=True) if success]
            assert contents(hub, revision) in kept
    assert set(hub.repositories["model", NAME].branches) == {"main", *(f"v{attempt}" for attempt in range(6))}


def test_new_revision_holds_no_file_of_the_release_on_main(
    hub: LoopbackHub, api: HfApi, ours: Path, theirs: Path
) -> None:
    send(api, theirs, NAME, patience=QUICK)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=NAME)
    send(api, ours, NAME, "v1", patience=QUICK)
    assert contents(hub, "v1") == {**staged(ours), "notes.txt": b"mine"}
    assert contents(hub, "main") == {**staged(theirs), "notes.txt": b"mine"}


def test_unreadable_manifest_does_not_block_a_release(
    hub: LoopbackHub, api: HfApi, ours: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api.create_repo(NAME)
    for content in ("[" * 100_000, '{"files": []}', "<html>"):
        api.upload_file(path_or_fileobj=content.encode(), path_in_repo="release.json", repo_id=NAME)
        send(api, ours, NAME, patience=QUICK)
        assert contents(hub, "main") == staged(ours)
        assert "the manifest of its previous release is ignored" in caplog.records[-1].message


def test_unreachable_manifest_does_not_count_as_missing(
    hub: LoopbackHub, api: HfApi, ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> str:
        # The client's error for a file that is not cached while the Hub cannot be reached.
        raise LocalEntryNotFoundError("not cached") from ConnectionError("refused")

    send(api, theirs, NAME, patience=QUICK)
    monkeypatch.setattr(api, "hf_hub_download", unreachable)
    with pytest.raises(UsageError, match="connection failed"):
        send(api, ours, NAME, patience=QUICK)
    assert contents(hub, "main") == staged(theirs)
