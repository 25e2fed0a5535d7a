"""Whatever goes wrong between here and the Hub ends in success after another try, or in one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from releases import NAME, QUICK, write_source

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
PASSING: list[Any] = [429, 500, 503, "cut", "lost"]
pytestmark = pytest.mark.usefixtures("impatient")

FINAL = {401: "the Hub does not know the token", 403: "the token may not do that there"}


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_source(tmp_path_factory.mktemp("staged") / "release")
    write_card(folder, NAME, load_tokenizer(str(folder)))
    write_manifest(folder)
    return folder


def titles(hub: LoopbackHub) -> list[str]:
    repository = hub.repositories.get(("model", NAME))
    if repository is None or "main" not in repository.branches:
        return []
    return [commit.title for commit in repository.history(repository.find("main"))]


def is_whole(hub: LoopbackHub, staged: Path, revision: str = "main") -> bool:
    files = {path.relative_to(staged).as_posix(): path for path in staged.rglob("*") if path.is_file()}
    there = set(hub.repositories["model", NAME].find(revision).files)
    return there == {*files, ".gitattributes"} and all(
        hub.read(NAME, name, revision) == path.read_bytes() for name, path in files.items()
    )


@pytest.mark.parametrize("how", PASSING)
@pytest.mark.parametrize(("method", "path"), PUSHES)
def test_what_passes_is_tried_again(
    hub: LoopbackHub, api: HfApi, staged: Path, method: str, path: str, how: Any
) -> None:
    fault = hub.fail(method, path, how, headers={"Retry-After": "0"} if how == 429 else None)
    assert send(api, staged, NAME, patience=QUICK).is_new
    assert fault.happened == 1
    assert is_whole(hub, staged)
    assert titles(hub) == ["Release", "initial commit"]


@pytest.mark.parametrize("status", FINAL)
@pytest.mark.parametrize(("method", "path"), [PUSHES[0], PUSHES[2], PUSHES[5]])
def test_what_does_not_pass_is_one_line_and_no_release(
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
    assert titles(hub) in ([], ["initial commit"])
    hub.mend()
    send(api, staged, NAME, patience=QUICK)
    assert is_whole(hub, staged)


def test_a_push_that_never_goes_through_goes_on_later(hub: LoopbackHub, api: HfApi, staged: Path) -> None:
    hub.fail("POST", "/commit/", 500, times=None)
    with pytest.raises(UsageError, match=r"the Hub answers 500\. Run the same command again"):
        send(api, staged, NAME, patience=QUICK)
    assert titles(hub) == ["initial commit"]
    hub.mend()
    sent = [request for request in hub.log if request.method == "PUT"]
    assert sent
    send(api, staged, NAME, patience=QUICK)
    # The large files were there already.
    assert [request for request in hub.log if request.method == "PUT"] == sent
    assert is_whole(hub, staged)


@pytest.mark.parametrize("how", ["cut-body", "corrupt", "slow"])
def test_uploads_that_break_or_arrive_wrong(hub: LoopbackHub, api: HfApi, staged: Path, how: str) -> None:
    fault = hub.fail("PUT", "/lfs/", how)
    send(api, staged, NAME, patience=QUICK)
    assert fault.happened == 1
    assert is_whole(hub, staged)


def test_another_commit_in_between_is_kept(hub: LoopbackHub, api: HfApi, staged: Path) -> None:
    api.create_repo(NAME)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=NAME)
    fault = hub.fail("POST", "/commit/", 412)
    send(api, staged, NAME, patience=QUICK)
    assert fault.happened == 1
    assert hub.read(NAME, "notes.txt") == b"mine"


def test_a_branch_whose_commit_fails_is_gone(hub: LoopbackHub, api: HfApi, staged: Path) -> None:
    hub.fail("POST", "/commit/v1", 403, times=None)
    with pytest.raises(UsageError):
        send(api, staged, NAME, "v1", patience=QUICK)
    assert list(hub.repositories["model", NAME].branches) == ["main"]


def test_without_a_token(hub: LoopbackHub, staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
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
def test_pulls_that_break_are_mended(hub: LoopbackHub, api: HfApi, staged: Path, path: str, how: Any) -> None:
    send(api, staged, NAME, patience=QUICK)
    # Of a file the HEAD says little: what breaks is its download.
    method = "GET" if "safetensors" in path or "json" in path else PULL
    fault = hub.fail(method, path, how, headers={"Retry-After": "0"} if how == 429 else None)
    pulled = pull(NAME, patience=QUICK, api=api)
    assert fault.happened == 1
    for name, about in json.loads((staged / "release.json").read_text())["files"].items():
        assert (pulled.folder / name).stat().st_size == about["size"]
        assert (pulled.folder / name).read_bytes() == (staged / name).read_bytes()
    assert pulled.listed == len(json.loads((staged / "release.json").read_text())["files"])


def test_what_stays_wrong_is_not_kept(hub: LoopbackHub, api: HfApi, staged: Path, tmp_path: Path) -> None:
    send(api, staged, NAME, patience=QUICK)
    hub.fail("GET", "model.safetensors", "corrupt", times=None)
    with pytest.raises(UsageError, match=r"model\.safetensors is not what the Hub lists, twice"):
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
        ("org/nothing", None, "no such repository"),
        (NAME, "nowhere", "there is no such revision"),
        ("org/na me", None, "org/na me"),
        (NAME, "empty", "holds no config.json"),
    ],
)
def test_pulling_what_is_not_there(
    hub: LoopbackHub, api: HfApi, staged: Path, name: str, revision: str | None, message: str
) -> None:
    api.create_repo(NAME)
    api.create_branch(NAME, branch="empty")
    with pytest.raises(UsageError, match=message) as caught:
        pull(name, revision, patience=QUICK, api=api)
    assert "\n" not in str(caught.value)


def test_pulling_into_a_folder_that_holds_something(
    hub: LoopbackHub, api: HfApi, staged: Path, tmp_path: Path
) -> None:
    send(api, staged, NAME, patience=QUICK)
    out = tmp_path / "out"
    pull(NAME, out=out, patience=QUICK, api=api)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    pull(NAME, out=out, patience=QUICK, api=api)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    (out / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds something else"):
        pull(NAME, out=out, patience=QUICK, api=api)
    assert (out / "config.json").read_text() == "{}"


def test_files_that_would_land_elsewhere_or_run_code(
    hub: LoopbackHub, api: HfApi, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(api, staged, NAME, patience=QUICK)
    api.upload_file(path_or_fileobj=b"\x80\x04N.", path_in_repo="training_args.bin", repo_id=NAME)
    pulled = pull(NAME, patience=QUICK, api=api)
    assert pulled.left_out == ("training_args.bin",)
    assert not (pulled.folder / "training_args.bin").exists()
    listing = api.model_info(NAME, files_metadata=True)
    listing.siblings[0].rfilename = "../../elsewhere"
    monkeypatch.setattr(api, "model_info", lambda *args, **kwargs: listing)
    with pytest.raises(UsageError, match="outside of its folder"):
        pull(NAME, patience=QUICK, api=api)


def test_a_release_that_was_changed_afterwards(hub: LoopbackHub, api: HfApi, staged: Path) -> None:
    send(api, staged, NAME, patience=QUICK)
    api.upload_file(path_or_fileobj=b"---\nlicense: mit\n---\n", path_in_repo="README.md", repo_id=NAME)
    assert pull(NAME, patience=QUICK, api=api).listed is not None
    api.upload_file(path_or_fileobj=b'{"model_type": "modernbert"}', path_in_repo="config.json", repo_id=NAME)
    with pytest.raises(UsageError, match=r"config\.json is not what release\.json lists"):
        pull(NAME, patience=QUICK, api=api)
