"""Corpora at URLs are prepared like local ones."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

pytest.importorskip("datatrove", reason="datatrove is not installed")

from corpora import sentences, write
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.corpora.prepare import prepare_corpus
from llm_jp_modernbert.training.corpora.recipe import load_recipe
from llm_jp_modernbert.training.data.readers import SourceError
from llm_jp_modernbert.training.data.sources import sources_of
from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions, tokenize_corpus

KEYS = ("tasks=2", "validation_share=0.2", "near_duplicates={bands: 2, hashes: 2}")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "pages"
    for number, name in enumerate("ab"):
        pages = (sentences(seed) for seed in range(100 * number, 100 * number + 15))
        write(folder / f"{name}.jsonl", [*pages, sentences(999), "短い。"])
    return folder


def prepare(texts: object, out: object, *keys: str, workers: int = 1) -> dict[str, Any]:
    recipe = load_recipe("japanese-web", [f"data={texts}", f"output_dir={out}", *KEYS, *keys])
    report = prepare_corpus(recipe, workers=workers)
    assert report is not None
    return report


def files_of(url: str) -> dict[str, bytes]:
    """The files of a corpus but its manifest, which names the inputs."""
    system, root = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    names = {name.removeprefix(root).lstrip("/"): name for name in system.find(root)}
    assert "manifest.json" in names
    return {
        relative: system.cat_file(name)
        for relative, name in names.items()
        if relative != "manifest.json" and not relative.startswith("work/")
    }


@pytest.fixture(scope="module")
def expected(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, bytes]]:
    out = tmp_path_factory.mktemp("local") / "out"
    return prepare(texts, out), files_of(str(out))


@pytest.fixture
def memory(texts: Path) -> Iterator[Any]:
    """The memory of fsspec with the texts at `memory://pages`."""
    system = fsspec.filesystem("memory")
    system.put(f"{texts}/", "/pages", recursive=True)
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_urls_give_the_files_of_a_local_preparation(memory: Any, expected: Any) -> None:
    report, files = expected
    assert prepare("memory://pages/*.jsonl", "memory://out") == report
    assert files_of("memory://out") == files
    assert prepare("memory://pages/*.jsonl", "memory://out") == report
    with pytest.raises(UsageError, match=r"^memory://pages is not empty"):
        prepare("memory://pages/*.jsonl", "memory://pages")


def test_dataset_repositories_are_read_but_not_written(
    hub: LoopbackHub, api: HfApi, texts: Path, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.url, "token": hub.token})
    api.create_repo("org/pages", repo_type="dataset")
    api.upload_folder(repo_id="org/pages", folder_path=texts, path_in_repo="pages", repo_type="dataset")
    assert prepare("hf://datasets/org/pages/pages/*.jsonl", tmp_path / "out") == expected[0]
    assert files_of(str(tmp_path / "out")) == expected[1]
    hub.log.clear()
    with pytest.raises(UsageError, match=r"^output_dir: hf://datasets/org/out: the Hub would get a commit"):
        prepare("hf://datasets/org/pages/pages/*.jsonl", "hf://datasets/org/out")
    assert not hub.log


@pytest.mark.parametrize(("texts_at", "out"), [("s3://bucket/pages", "corpus"), ("LOCAL", "s3://bucket/out")])
def test_missing_package_of_a_storage_is_named(
    texts_at: str, out: str, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(fsspec.registry, "s3", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^s3://bucket/\w+: Install s3fs to access S3$"):
        prepare(texts if texts_at == "LOCAL" else texts_at, out)
    assert not any(tmp_path.iterdir())


@pytest.fixture
def s3(texts: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 server with the texts at `s3://bucket/pages`."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = moto.ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    # In the environment, which the workers inherit.
    for name, value in {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    s3fs.S3FileSystem.clear_instance_cache()
    system = fsspec.filesystem("s3")
    system.mkdir("bucket")
    system.put(f"{texts}/", "bucket/pages", recursive=True)
    yield system
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.slow
def test_object_stores_give_the_files_of_a_local_corpus(
    s3: Any, texts: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    fewer_stages = "near_duplicates=null"
    report, files = prepare(texts, tmp_path / "out", fewer_stages), files_of(str(tmp_path / "out"))
    keys = ("data=s3://bucket/pages", "output_dir=s3://bucket/corpus", *KEYS, fewer_stages)
    command = [sys.executable, "-m", "llm_jp_modernbert", "prepare-corpus", "japanese-web", *keys, "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not s3.glob("bucket/corpus/work/logs/clean/completions/*"):
        time.sleep(0.3)
        s3.invalidate_cache()
    process.kill()
    process.wait()
    assert prepare("s3://bucket/pages", "s3://bucket/corpus", fewer_stages, workers=2) == report
    assert files_of("s3://bucket/corpus") == files

    options = TokenizeOptions(["s3://bucket/corpus/train/*"], str(data[1]), "s3://bucket/tokenized", shard_tokens=1000)
    for part in ("2/2", "1/2"):
        tokenize_corpus(replace(options, part=part))
    merged = tokenize_corpus(replace(options, merge=True))
    with pytest.raises(SourceError, match=r"^train_data: s3://bucket/tokenized: a remote path.* Copy it"):
        sources_of("s3://bucket/tokenized", "text")
    local = replace(options, files=[str(tmp_path / "train")], out=str(tmp_path / "tokenized"))
    s3.get("bucket/corpus/train", str(tmp_path / "train"), recursive=True)
    assert tokenize_corpus(local)["totals"] == merged["totals"]
    s3.get("bucket/tokenized", str(tmp_path / "copy"), recursive=True)
    shards = {path.name: path.read_bytes() for path in (tmp_path / "tokenized" / "data").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy" / "data").iterdir()} == shards
    assert not (tmp_path / "copy" / ".progress").exists()
    assert sources_of(str(tmp_path / "copy"), "text")
