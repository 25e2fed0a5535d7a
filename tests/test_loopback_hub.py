"""The tests' local Hub serves huggingface_hub, transformers and datasets, and fails on request."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.sha import git_hash
from loopback_hub import LoopbackHub

NAME = "org/name"
WEIGHTS = b"".join(hashlib.sha256(b"%d" % index).digest() for index in range(4096))
FILES = {
    "config.json": b"{}",
    "README.md": "---\nlanguage: ja\n---\n説明\n".encode(),
    "model.safetensors": WEIGHTS,
    "資料/図 1.json": b"1",
}
SHA = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "folder"


def count_commits(api: HfApi) -> int:
    return len(api.list_repo_commits(NAME))


def statuses_of(hub: LoopbackHub, method: str, part: str) -> list[int | None]:
    return [request.status for request in hub.log if request.method == method and part in request.path]


def test_uploaded_files_are_downloaded_unchanged(hub: LoopbackHub, api: HfApi, folder: Path, tmp_path: Path) -> None:
    api.create_repo(NAME)
    commit = api.upload_folder(repo_id=NAME, folder_path=folder)
    api.create_tag(NAME, tag="v1")
    api.create_branch(NAME, branch="stage1/step-7", revision="v1")
    api.create_commit(
        NAME,
        [CommitOperationAdd("sub/two.json", b"2"), CommitOperationDelete("config.json")],
        commit_message="two",
        parent_commit=commit.oid,
    )
    # Another server on the same folder has the same repositories.
    with LoopbackHub(tmp_path / "hub") as second:
        api = HfApi(endpoint=second.url, token=second.token)
        downloaded = Path(api.snapshot_download(NAME, revision="stage1/step-7", local_dir=tmp_path / "downloaded"))
        assert {name: (downloaded / name).read_bytes() for name in FILES} == FILES
        verified = api.verify_repo_checksums(NAME, revision="v1", local_dir=downloaded)
        assert (verified.mismatches, verified.missing_paths) == ([], [])
        refs = api.list_repo_refs(NAME)
        assert [ref.name for ref in refs.branches] == ["main", "stage1/step-7"]
        assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", commit.oid)]
        assert [commit.title for commit in api.list_repo_commits(NAME)] == [
            "two",
            "Upload folder using huggingface_hub",
            "initial commit",
        ]
        paths = [".gitattributes", "README.md", "model.safetensors", "sub/two.json", "資料/図 1.json"]
        assert sorted(api.list_repo_files(NAME)) == paths
        second.page_size = 2
        listed = {entry.path: entry for entry in api.list_repo_tree(NAME, recursive=True, expand=True)}
        assert sorted(listed) == sorted([*paths, "sub", "資料"])
        lfs = listed["model.safetensors"].lfs
        assert (lfs.sha256, lfs.size) == (SHA, len(WEIGHTS))
        info = api.model_info(NAME, files_metadata=True)
        assert info.card_data.language == "ja"
        assert {file.rfilename: file.size for file in info.siblings}["model.safetensors"] == len(WEIGHTS)
        assert HfFileSystem(endpoint=second.url, token=second.token).isdir(f"{NAME}/sub")
        api.delete_branch(NAME, branch="stage1/step-7")
        api.delete_tag(NAME, tag="v1")
        with pytest.raises(RevisionNotFoundError):
            api.model_info(NAME, revision="v1")
        with pytest.raises(EntryNotFoundError):
            api.hf_hub_download(NAME, "config.json", local_dir=tmp_path / "other")
        api.delete_repo(NAME)
        assert not api.repo_exists(NAME)
    assert not (tmp_path / "hub" / "repositories" / "model" / f"{NAME}.json").exists()


def test_file_ids_equal_those_of_git(hub: LoopbackHub, api: HfApi, folder: Path) -> None:
    api.create_repo(NAME)
    api.upload_folder(repo_id=NAME, folder_path=folder)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA}\nsize {len(WEIGHTS)}\n"
    expected = [git_hash(FILES["README.md"]), git_hash(pointer.encode())]
    files = api.get_paths_info(NAME, ["README.md", "model.safetensors"])
    assert [file.blob_id for file in files] == expected
    assert files[1].lfs is not None
    assert files[1].lfs.pointer_size == len(pointer)


def test_existing_files_are_not_uploaded_again(hub: LoopbackHub, api: HfApi, folder: Path) -> None:
    api.create_repo(NAME)
    api.upload_folder(repo_id=NAME, folder_path=folder)
    api.upload_folder(repo_id=NAME, folder_path=folder)
    assert count_commits(api) == 2
    api.create_branch(NAME, branch="other", revision=api.list_repo_commits(NAME)[-1].commit_id)
    api.upload_folder(repo_id=NAME, folder_path=folder, revision="other")
    assert statuses_of(hub, "PUT", f"/lfs/{SHA}") == [200]
    # LFS objects belong to one repository: another one needs an upload of its own.
    api.create_repo("org/another")
    api.upload_folder(repo_id="org/another", folder_path=folder)
    assert statuses_of(hub, "PUT", f"/lfs/{SHA}") == [200, 200]


def test_commits_are_atomic(hub: LoopbackHub, api: HfApi) -> None:
    api.create_repo(NAME)
    first = api.list_repo_commits(NAME)[0].commit_id
    adds = [CommitOperationAdd("a", b"a")]
    with pytest.raises(EntryNotFoundError):
        api.create_commit(NAME, [*adds, CommitOperationDelete("無い")], commit_message="x")
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(NAME, [CommitOperationAdd("a", b"a")], commit_message="x", parent_commit="0" * 40)
    url, token = f"{hub.url}/api/models/{NAME}/commit/main", {"Authorization": f"Bearer {hub.token}"}
    header = {"key": "header", "value": {"summary": "x"}}
    pointer = {"key": "lfsFile", "value": {"path": "w", "algo": "sha256", "oid": SHA, "size": 1}}
    lines = "".join(json.dumps(line) + "\n" for line in (header, pointer))
    response = httpx2.post(url, content=lines, headers=token)
    assert (response.status_code, "does not exist" in response.json()["error"]) == (400, True)
    # A request that ends too early has no effect, even if its first part is valid.
    with socket.create_connection(("127.0.0.1", int(hub.url.rsplit(":", 1)[1]))) as connection:
        head = f"POST {url} HTTP/1.1\r\nAuthorization: {token['Authorization']}\r\nContent-Length: 9999\r\n\r\n"
        connection.sendall((head + json.dumps(header) + "\n").encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert api.list_repo_commits(NAME)[0].commit_id == first
    assert api.list_repo_files(NAME) == [".gitattributes"]


def test_permissions(hub: LoopbackHub, api: HfApi, folder: Path) -> None:
    guest, anonymous, invalid = (
        HfApi(endpoint=hub.url, token=token) for token in (hub.guest_token, False, "hf_invalid")
    )
    assert (api.whoami()["name"], guest.whoami()["name"]) == (hub.user, "guest")
    api.create_repo(NAME, private=True)
    api.create_repo(NAME, exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(NAME)
    api.upload_folder(repo_id=NAME, folder_path=folder)
    for client, status in ((guest, 404), (anonymous, 401)):
        with pytest.raises(RepositoryNotFoundError) as error:
            client.model_info(NAME)
        assert error.value.response.status_code == status
    repository = hub.repositories["model", NAME]
    assert (repository.private, repository.visibilities) == (True, ["private"])
    api.update_repo_settings(NAME, private=False, gated="auto")
    assert repository.visibilities == ["private", "public"]
    assert anonymous.model_info(NAME).gated == "auto"
    for client in (guest, anonymous):
        with pytest.raises(GatedRepoError):
            client.hf_hub_download(NAME, "config.json", cache_dir=folder)
    api.update_repo_settings(NAME, gated=False)
    assert Path(anonymous.hf_hub_download(NAME, "config.json", cache_dir=folder)).read_bytes() == b"{}"
    for client, status in ((guest, 403), (invalid, 401)):
        with pytest.raises(HfHubHTTPError) as error:
            client.create_branch(NAME, branch="b")
        assert error.value.response.status_code == status
    with pytest.raises(HfHubHTTPError, match="401"):
        invalid.model_info(NAME)
    assert {request.has_token for request in hub.log} == {True, False}
    assert not any(secret in repr(hub.log) for secret in (hub.token, hub.guest_token, "hf_invalid"))


@pytest.mark.parametrize(
    ("header", "status", "part"),
    [
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=131000-", 206, slice(131000, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=131070-999999", 206, slice(131070, None)),
        (f"bytes={len(WEIGHTS)}-", 416, slice(0)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_range_requests(hub: LoopbackHub, api: HfApi, folder: Path, header: str, status: int, part: slice) -> None:
    api.create_repo(NAME)
    api.upload_folder(repo_id=NAME, folder_path=folder)
    url = f"{hub.url}/{NAME}/resolve/main/model.safetensors"
    response = httpx2.get(url, headers={"Range": header})
    assert (response.status_code, response.content) == (status, WEIGHTS[part])
    if status == 206:
        first, end, _ = part.indices(len(WEIGHTS))
        assert response.headers["Content-Range"] == f"bytes {first}-{end - 1}/{len(WEIGHTS)}"
    head = httpx2.head(url)
    assert (head.headers["X-Linked-Etag"], head.headers["X-Linked-Size"]) == (f'"{SHA}"', str(len(WEIGHTS)))
    assert head.headers["X-Repo-Commit"] == api.model_info(NAME).sha


def test_card_metadata_is_validated(hub: LoopbackHub, api: HfApi) -> None:
    result = "{task: {type: fill-mask}, dataset: {type: d, name: d}, metrics: [{type: accuracy, value: 0.5}]}"

    def index(old: str, new: str) -> str:
        return f"model-index: [{{name: m, results: [{result.replace(old, new)}]}}]"

    for text, message in (
        ("language: [ja", "invalid YAML"),
        ("language: no", '"language" must be'),
        ("model-index: [{results: []}]", r"model-index\[0\].name"),
        (index(", value: 0.5", ""), "value"),
        (index("name: d", "name: ''"), "not allowed to be empty"),
        (index("type: d", "type: a + b"), r"dataset.type.* pattern"),
        (index("type: d", "type: a/b/c"), r"dataset.type.* pattern"),
        (index("type: d", "type: 文書"), r"dataset.type.* pattern"),
        (index("type: d", "config: 3, type: d"), "config"),
        ("license: my-own", '"license" must be one of'),
        ("language: jp", "ISO 639"),
        ("language: [zh-CN]", "lowercase"),
        ("language: [japanese]", "ISO 639"),
        ("datasets: [/var/texts/]", r'"datasets\[0\]" with value "/var/texts/" is not valid'),
        ("base_model: runs/stage1/model", '"base_model" with value'),
        ("widget: text", '"widget" must be an array'),
    ):
        with pytest.raises(ValueError, match=message):
            api._validate_yaml(f"---\n{text}\n---\n")
    api._validate_yaml(
        "---\nlanguage: [ja, zho, code]\nlicense: mit\nbase_model: org/m\ndatasets: [org/d, imdb]\n---\n"
    )
    api._validate_yaml(f"---\nlanguage: ja\nmodel-index: [{{name: m, results: [{result}]}}]\n---\n")
    with pytest.warns(UserWarning, match="empty or missing"):
        api._validate_yaml("no metadata")


def upload(api: HfApi, folder: Path, target: Path) -> None:
    api.upload_folder(repo_id=NAME, folder_path=folder)


def download(api: HfApi, folder: Path, target: Path) -> None:
    api.hf_hub_download(NAME, "model.safetensors", local_dir=target)


@pytest.mark.parametrize(
    ("job", "method", "path", "how", "statuses"),
    [
        (upload, "PUT", "/lfs/", 503, [503, 200]),
        (upload, "PUT", "/lfs/", "cut", [None, 200]),
        (upload, "PUT", "/lfs/", "cut-body", [None, 200]),
        (upload, "PUT", "/lfs/", "lost", [None, 200]),
        (upload, "POST", "/preupload/", 429, [429, 200]),
        (download, "GET", "/resolve/", 429, [429, 200]),
        (download, "GET", "/resolve/", "cut", [None, 200]),
        (download, "GET", "/resolve/", "cut-body", [200, 206]),
        (download, "GET", "/resolve/", "slow", [200]),
    ],
)
def test_client_recovers_from_transient_failures(
    hub: LoopbackHub,
    api: HfApi,
    folder: Path,
    tmp_path: Path,
    impatient: None,
    job: Callable[..., None],
    method: str,
    path: str,
    how: Any,
    statuses: list[int | None],
) -> None:
    api.create_repo(NAME)
    if job is download:
        upload(api, folder, tmp_path)
    headers = {"Retry-After": "1"} if how == 429 else None
    fault = hub.fail(method, path, how, headers=headers, seconds=0.02)
    began = time.perf_counter()
    job(api, folder, tmp_path / "downloaded")
    assert (fault.happened, hub.faults_left()) == (1, 0)
    assert statuses_of(hub, method, path) == statuses
    assert hub.read(NAME, "model.safetensors") == WEIGHTS
    assert count_commits(api) == 2
    if job is download:
        assert (tmp_path / "downloaded" / "model.safetensors").read_bytes() == WEIGHTS
    if how == "slow":
        assert time.perf_counter() - began >= 8 * 0.02
    resumed = [request.range for request in hub.log if request.status == 206]
    assert resumed == ([f"bytes={len(WEIGHTS) // 2}-"] if how == "cut-body" and job is download else [])


@pytest.mark.parametrize(
    ("method", "path", "how", "error", "commits"),
    [
        ("POST", "/repos/create", 401, HfHubHTTPError, 0),
        ("POST", "/preupload/", 403, HfHubHTTPError, 1),
        ("PUT", "/lfs/", "corrupt", RuntimeError, 1),
        ("POST", "/commit/", 409, HfHubHTTPError, 1),
        ("POST", "/commit/", 500, HfHubHTTPError, 1),
        ("POST", "/commit/", "cut", httpx2.TransportError, 1),
        ("POST", "/commit/", "cut-body", httpx2.TransportError, 1),
        ("POST", "/commit/", "corrupt", BadRequestError, 1),
        ("POST", "/commit/", "lost", httpx2.TransportError, 2),
    ],
)
def test_failed_push_leaves_no_partial_commit(
    hub: LoopbackHub, api: HfApi, folder: Path, method: str, path: str, how: Any, error: type[Exception], commits: int
) -> None:
    fault = hub.fail(method, path, how)

    def push() -> None:
        api.create_repo(NAME, exist_ok=True)
        api.upload_folder(repo_id=NAME, folder_path=folder)

    with pytest.raises(error):
        push()
    assert fault.happened == 1
    assert len(hub.repositories["model", NAME].commits if commits else {}) == commits
    push()
    assert count_commits(api) == 2
    assert {name: hub.read(NAME, name) for name in FILES} == FILES


def test_corrupted_download_is_detected_by_checksums(
    hub: LoopbackHub, api: HfApi, folder: Path, tmp_path: Path
) -> None:
    api.create_repo(NAME)
    api.upload_folder(repo_id=NAME, folder_path=folder)
    hub.fail("GET", "model.safetensors", "corrupt")
    api.snapshot_download(NAME, local_dir=tmp_path / "downloaded")
    verified = api.verify_repo_checksums(NAME, local_dir=tmp_path / "downloaded")
    assert [(mismatch["path"], mismatch["expected"]) for mismatch in verified.mismatches] == [
        ("model.safetensors", SHA)
    ]


def test_faults_follow_their_schedule(hub: LoopbackHub) -> None:
    hub.fail("GET|HEAD", "^/api/whoami", 503, times=2, after=1, headers={"X-Error-Code": "Scheduled"})
    always = hub.fail("GET", "whoami", 418, times=None)
    token = {"Authorization": f"Bearer {hub.token}"}
    responses = []
    for _ in range(4):
        responses.append((httpx2.get(f"{hub.url}/api/whoami-v2", headers=token), hub.faults_left()))
    assert [(response.status_code, left) for response, left in responses] == [(418, 2), (503, 1), (503, 0), (418, 0)]
    assert responses[1][0].headers["X-Error-Code"] == "Scheduled"
    assert always.happened == 2
    hub.mend()
    assert httpx2.get(f"{hub.url}/api/whoami-v2", headers=token).status_code == 200
    with pytest.raises(ValueError, match="how"):
        hub.fail("GET", "", "broken")


def run(code: str, hub: LoopbackHub, home: Path) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **hub.environment(home)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


_MODEL = """
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForMaskedLM, AutoTokenizer, ModernBertConfig, PreTrainedTokenizerFast, pipeline

tokens = ["[PAD]", "[MASK]", "[UNK]", "山", "川"]
inner = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]"))
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=inner, pad_token="[PAD]", mask_token="[MASK]", unk_token="[UNK]"
)
config = ModernBertConfig(
    vocab_size=5, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    pad_token_id=0, bos_token_id=2, eos_token_id=2, cls_token_id=2, sep_token_id=2,
)
model = AutoModelForMaskedLM.from_config(config).eval()
model.push_to_hub("org/name", private=True)
tokenizer.push_to_hub("org/name")
loaded = AutoModelForMaskedLM.from_pretrained("org/name").eval()
ids = torch.tensor([[3, 1, 4]])
assert torch.equal(loaded(ids).logits, model(ids).logits)
assert AutoTokenizer.from_pretrained("org/name").get_vocab() == tokenizer.get_vocab()
print(len(pipeline("fill-mask", model="org/name")("[MASK]")))
"""

_DATASET = """
from datasets import Dataset, load_dataset

rows = [{"text": f"第{index}行", "ids": [index, index + 1]} for index in range(20)]
Dataset.from_list(rows).push_to_hub("org/data", num_shards=2)
assert load_dataset("org/data", split="train").to_list() == rows
assert list(load_dataset("org/data", split="train", streaming=True)) == rows
Dataset.from_list(rows[:3]).push_to_hub("org/data", config_name="few", split="test")
print(load_dataset("org/data", "few", split="test").num_rows)
"""


def test_transformers_round_trip(hub: LoopbackHub, tmp_path: Path) -> None:
    assert run(_MODEL, hub, tmp_path / "home") == "5"
    assert hub.repositories["model", "org/name"].visibilities == ["private"]


def test_datasets_round_trip(hub: LoopbackHub, tmp_path: Path) -> None:
    assert run(_DATASET, hub, tmp_path / "home") == "3"
    assert len(HfApi(endpoint=hub.url, token=False).dataset_info("org/data").card_data["configs"]) == 2
