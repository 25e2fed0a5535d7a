"""Failures of the Hub or the network end in success after a retry, or in a one-line error."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from file_limits import file_size_limit
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from releases import NAME, QUICK, write_source

from llm_jp_modernbert.core import hub_errors
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.publishing.pull import pull
from llm_jp_modernbert.publishing.release import send
from llm_jp_modernbert.publishing.staging import write_card, write_manifest

PULL = "GET|HEAD"
PUSHES = [
    ("POST", "/repos/create"),
    ("GET", "/api/models/org/name"),
    ("POST", "/preupload/"),
    ("POST", "/objects/batch"),
    ("PUT", "/lfs/"),
    ("POST", "/commit/"),
]
TRANSIENT: list[Any] = [429, 500, 503, "cut", "lost"]
pytestmark = pytest.mark.usefixtures("impatient")

FINAL = {401: "the Hub does not know the token", 403: "the token lacks the permission"}


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_source(tmp_path_factory.mktemp("staged") / "release")
    write_card(folder, NAME, load_tokenizer(str(folder)))
    write_manifest(folder)
    return folder


def commit_titles(hub: LoopbackHub) -> list[str]:
    repository = hub.repositories.get(("model", NAME))
    if repository is None or "main" not in repository.branches:
        return []
    return [commit.title for commit in repository.history(repository.find("main"))]


def is_complete(hub: LoopbackHub, staged: Path, revision: str = "main") -> bool:
    files = {path.relative_to(staged).as_posix(): path for path in staged.rglob("*") if path.is_file()}
    existing = set(hub.repositories["model", NAME].find(revision).files)
    return existing == {*files, ".gitattributes"} and all(
        hub.read(NAME, name, revision) == path.read_bytes() for name, path in files.items()
    )


@pytest.mark.parametrize("how", TRANSIENT)
@pytest.mark.parametrize(("method", "path"), PUSHES)
def test_transient_failures_of_a_push_are_retried(
    hub: LoopbackHub, api: HfApi, staged: Path, method: str, path: str, how: Any
) -> None:
    fault = hub.fail(method, path, how, headers={"Retry-After": "0"} if how == 429 else None)
    assert send(api, staged, NAME, patience=QUICK).is_new
    assert fault.happened == 1
    assert is_complete(hub, staged)
    assert commit_titles(hub) == ["Release", "initial commit"]


@pytest.mark.parametrize("status", FINAL)
@pytest.mark.parametrize(("method", "path"), [PUSHES[0], PUSHES[2], PUSHES[5]])
def test_permanent_failure_is_one_line_and_changes_nothing(
    hub: LoopbackHub, api: HfApi, staged: Path, method: str, path: str, status: int
) -> None:
    hub.fail(method, path, status, times=None)
    with pytest.raises(UsageError) as caught:
        send(api, staged, NAME, patience=QUICK)
    message = str(caught.value)
    assert message.startswith(f"{NAME}: ")
    assert FINAL[status] in message or "no such repository" in message
    assert "\n" not in message
    assert hub.token not in message
    assert commit_titles(hub) in ([], ["initial commit"])
    hub.mend()
    send(api, staged, NAME, patience=QUICK)
    assert is_complete(hub, staged)


def test_failed_push_resumes_without_uploading_large_files_again(hub: LoopbackHub, api: HfApi, staged: Path) -> None:
    hub.fail("POST", "/commit/", 500, times=None)
    with pytest.raises(UsageError, match=r"the Hub answers 500\. Run the same command again"):
        send(api, staged, NAME, patience=QUICK)
    assert commit_titles(hub) == ["initial commit"]
    hub.mend()
    uploads = [request for request in hub.log if request.method == "PUT"]
    assert uploads
    send(api, staged, NAME, patience=QUICK)
    assert [request for request in hub.log if request.method == "PUT"] == uploads
    assert is_complete(hub, staged)


@pytest.mark.parametrize("how", ["cut-body", "corrupt", "slow"])
def test_broken_uploads_are_repeated(hub: LoopbackHub, api: HfApi, staged: Path, how: str) -> None:
    fault = hub.fail("PUT", "/lfs/", how)
    send(api, staged, NAME, patience=QUICK)
    assert fault.happened == 1
    assert is_complete(hub, staged)


def test_concurrent_commit_is_kept(hub: LoopbackHub, api: HfApi, staged: Path) -> None:
    api.create_repo(NAME)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=NAME)
    fault = hub.fail("POST", "/commit/", 412)
    send(api, staged, NAME, patience=QUICK)
    assert fault.happened == 1
    assert hub.read(NAME, "notes.txt") == b"mine"


def test_new_branch_is_deleted_if_its_commit_fails(hub: LoopbackHub, api: HfApi, staged: Path) -> None:
    hub.fail("POST", "/commit/v1", 403, times=None)
    with pytest.raises(UsageError):
        send(api, staged, NAME, "v1", patience=QUICK)
    assert list(hub.repositories["model", NAME].branches) == ["main"]


def test_push_without_permission_is_reported(
    hub: LoopbackHub, staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "missing"))
    for token in (False, "hf_a_secret", hub.guest_token):
        with pytest.raises(UsageError) as caught:
            send(HfApi(endpoint=hub.url, token=token), staged, NAME, patience=QUICK)
        assert "hf auth login" in str(caught.value)
        assert "secret" not in str(caught.value)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("/api/models/org/name", 429),
        ("/api/models/org/name", 500),
        ("/api/models/org/name", "cut"),
        ("model.safetensors", 500),
        ("model.safetensors", "cut"),
        ("model.safetensors", "cut-body"),
        ("model.safetensors", "corrupt"),
        ("tokenizer.json", "corrupt"),
        ("model.safetensors", "slow"),
    ],
)
def test_transient_failures_of_a_pull_are_retried(
    hub: LoopbackHub, api: HfApi, staged: Path, path: str, how: Any
) -> None:
    send(api, staged, NAME, patience=QUICK)
    # Files are hit in their GET request, not in the HEAD request before.
    method = "GET" if "safetensors" in path or "json" in path else PULL
    fault = hub.fail(method, path, how, headers={"Retry-After": "0"} if how == 429 else None)
    pulled = pull(NAME, patience=QUICK, api=api)
    assert fault.happened == 1
    listed = json.loads((staged / "release.json").read_text())["files"]
    for name, entry in listed.items():
        assert (pulled.folder / name).stat().st_size == entry["size"]
        assert (pulled.folder / name).read_bytes() == (staged / name).read_bytes()
    assert pulled.listed == len(listed)
    assert pulled.checked == len(hub.repositories["model", NAME].find("main").files)


def test_corrupted_file_is_reported_and_removed_from_the_cache(
    hub: LoopbackHub, api: HfApi, staged: Path, tmp_path: Path
) -> None:
    send(api, staged, NAME, patience=QUICK)
    hub.fail("GET", "model.safetensors", "corrupt", times=None)
    with pytest.raises(UsageError, match=r"model\.safetensors failed the checksum twice"):
        pull(NAME, out=tmp_path / "out", patience=QUICK, api=api)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    hub.mend()
    pull(NAME, out=tmp_path / "out", patience=QUICK, api=api)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (staged / "model.safetensors").read_bytes()
    assert not (tmp_path / "out").is_symlink()
    assert not (tmp_path / "out" / "model.safetensors").is_symlink()


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("org/missing", None, "no such repository"),
        (NAME, "missing", "there is no such revision"),
        ("org/na me", None, "org/na me"),
        (NAME, "empty", "holds no config.json"),
    ],
)
def test_missing_model_is_reported(
    hub: LoopbackHub, api: HfApi, staged: Path, name: str, revision: str | None, message: str
) -> None:
    api.create_repo(NAME)
    api.create_branch(NAME, branch="empty")
    with pytest.raises(UsageError, match=message) as caught:
        pull(name, revision, patience=QUICK, api=api)
    assert "\n" not in str(caught.value)


def test_pull_keeps_an_equal_copy_and_refuses_other_contents(
    hub: LoopbackHub, api: HfApi, staged: Path, tmp_path: Path
) -> None:
    send(api, staged, NAME, patience=QUICK)
    out = tmp_path / "out"
    pull(NAME, out=out, patience=QUICK, api=api)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    pull(NAME, out=out, patience=QUICK, api=api)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    (out / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="is not empty"):
        pull(NAME, out=out, patience=QUICK, api=api)
    assert (out / "config.json").read_text() == "{}"


def test_pull_skips_pickles_and_refuses_paths_outside_of_the_directory(
    hub: LoopbackHub, api: HfApi, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(api, staged, NAME, patience=QUICK)
    api.upload_file(path_or_fileobj=b"\x80\x04N.", path_in_repo="training_args.bin", repo_id=NAME)
    pulled = pull(NAME, patience=QUICK, api=api)
    assert pulled.skipped == ("training_args.bin",)
    assert not (pulled.folder / "training_args.bin").exists()
    listing = api.model_info(NAME)
    listing.siblings[0].rfilename = "../../outside"
    monkeypatch.setattr(api, "model_info", lambda *args, **kwargs: listing)
    with pytest.raises(UsageError, match="outside of its directory"):
        pull(NAME, patience=QUICK, api=api)


def test_pull_reports_files_that_differ_from_the_manifest(hub: LoopbackHub, api: HfApi, staged: Path) -> None:
    send(api, staged, NAME, patience=QUICK)
    api.upload_file(path_or_fileobj=b"---\nlicense: mit\n---\n", path_in_repo="README.md", repo_id=NAME)
    assert pull(NAME, patience=QUICK, api=api).listed is not None
    api.upload_file(path_or_fileobj=b'{"model_type": "modernbert"}', path_in_repo="config.json", repo_id=NAME)
    with pytest.raises(UsageError, match=r"config\.json differs from release\.json"):
        pull(NAME, patience=QUICK, api=api)


TOMORROW = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
LONG = {
    "number": {"Retry-After": "100000"},
    "date": {"Retry-After": TOMORROW},
    "limit": {"RateLimit": '"api";r=0;t=9000'},
}


@pytest.mark.parametrize("headers", LONG.values(), ids=list(LONG))
@pytest.mark.parametrize(("method", "path"), [("GET", "/api/models/org/name"), ("POST", "/preupload/")])
def test_wait_of_hours_is_one_line(
    hub: LoopbackHub, api: HfApi, staged: Path, method: str, path: str, headers: dict[str, str]
) -> None:
    fault = hub.fail(method, path, 429, times=None, headers=headers)
    began = time.perf_counter()
    with pytest.raises(UsageError, match=r"rate limit exceeded \(429\)\. It asks to wait [\d,]+ s") as caught:
        send(api, staged, NAME, patience=QUICK)
    assert time.perf_counter() - began < 60
    assert fault.happened == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["soon", "-5", "1.5", "²", "", "Thu, 01 Jan 1970 00:00:00 GMT", "9" * 5])
def test_odd_wait_is_ignored_unless_it_is_long(hub: LoopbackHub, api: HfApi, staged: Path, value: str) -> None:
    hub.fail("GET", "/api/models/org/name", 503, headers={"Retry-After": value})
    if value == "99999":
        with pytest.raises(UsageError, match="99,999 s"):
            send(api, staged, NAME, patience=QUICK)
        return
    send(api, staged, NAME, patience=QUICK)
    assert is_complete(hub, staged)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/repos/create"), ("POST", "/commit/"), ("POST", "/objects/batch"), ("GET", "/revision/main$")],
)
def test_silent_hub_times_out_and_is_asked_again(
    hub: LoopbackHub, api: HfApi, staged: Path, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    monkeypatch.setattr(hub_errors, "TIMEOUT", 1.0)
    # The whole answer would take 80 seconds.
    fault = hub.fail(method, path, "slow", seconds=10.0)
    began = time.perf_counter()
    send(api, staged, NAME, patience=QUICK)
    assert time.perf_counter() - began < 60
    assert fault.happened == 1
    assert is_complete(hub, staged)


@pytest.mark.parametrize(
    ("job", "path"),
    [("pull", "^/api/models/org/name"), ("pull", "/tree/"), ("send", "/commit/"), ("send", "/preupload/")],
)
def test_response_of_a_proxy_is_one_line(hub: LoopbackHub, api: HfApi, staged: Path, job: str, path: str) -> None:
    send(api, staged, NAME, patience=QUICK)
    (changed := staged.parent / "changed").mkdir(exist_ok=True)
    (changed / "config.json").write_text("{ }")
    for content in (b"<html><body>Log in</body></html>", b'{"id": "org/na', b"[]", b"3", b"[" * 100_000):
        hub.fail("GET|POST", path, 200, times=None, headers={"Content-Type": "text/html"}, content=content)
        with pytest.raises(UsageError) as caught:
            pull(NAME, patience=QUICK, api=api) if job == "pull" else send(api, changed, NAME, patience=QUICK)
        hub.mend()
        message = str(caught.value)
        assert message.startswith(NAME)
        assert "\n" not in message
        assert "line 1" not in message


@pytest.mark.parametrize("status", [400, 418, 429, 500])
def test_token_in_a_message_of_the_hub_is_masked(hub: LoopbackHub, api: HfApi, staged: Path, status: int) -> None:
    token = "hf_" + "aB3" * 12
    message = f"Invalid header\x1b[2J 'Authorization: Bearer {hub.token}' or {token}" + "!" * 5000
    hub.fail("POST", "/commit/", status, times=None, content=json.dumps({"error": message}).encode())
    with pytest.raises(UsageError) as caught:
        send(api, staged, NAME, patience=QUICK)
    shown = str(caught.value)
    assert not any(part in shown for part in (token, hub.token, "\x1b", "\n"))
    assert len(shown) < 500


def test_full_disk_is_named_and_nothing_stays(hub: LoopbackHub, api: HfApi, staged: Path, tmp_path: Path) -> None:
    send(api, staged, NAME, patience=QUICK)
    with file_size_limit(100_000), pytest.raises(UsageError, match=str(tmp_path / "cache")) as caught:
        pull(NAME, patience=QUICK, api=api)
    assert "\n" not in str(caught.value)
    pull(NAME, patience=QUICK, api=api)
    with file_size_limit(100_000), pytest.raises(OSError, match="File too large") as copying:
        pull(NAME, out=tmp_path / "out", patience=QUICK, api=api)
    assert copying.value.filename == str(tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
