"""Corpora on object stores and on the Hub are tokenized like local ones."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import runs
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.data.readers import SourceError
from llm_jp_modernbert.training.data.sources import sources_of
from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions, tokenize_corpus

Data = tuple[Path, Path]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts in three formats."""
    import pyarrow
    import pyarrow.json
    import pyarrow.parquet

    folder = runs.write_corpus(tmp_path_factory.mktemp("remote") / "texts", files=4, documents=30)
    (folder / "1.jsonl.gz").write_bytes(gzip.compress((folder / "1.jsonl").read_bytes()))
    (folder / "1.jsonl").unlink()
    pyarrow.parquet.write_table(pyarrow.json.read_json(folder / "2.jsonl"), folder / "2.parquet")
    (folder / "2.jsonl").unlink()
    return folder


@pytest.fixture
def memory(texts: Path) -> Iterator[Any]:
    """The memory of fsspec with the texts at `memory://texts`."""
    system = fsspec.filesystem("memory")
    system.put(f"{texts}/", "/texts", recursive=True)
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


@pytest.fixture
def whole(texts: Path, data: Data, tmp_path: Path) -> tuple[TokenizeOptions, dict[str, Any]]:
    """A local corpus, and its manifest."""
    settings = TokenizeOptions([str(texts)], str(data[1]), str(tmp_path / "whole"), shard_tokens=300)
    return settings, tokenize_corpus(settings)  # type: ignore[return-value]


def test_remote_parts_equal_a_local_corpus(
    memory: Any, whole: tuple[TokenizeOptions, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, manifest = whole
    remote = replace(local, files=["memory://texts/*"], out="memory://bucket/corpus")
    put, count = type(memory).put_file, iter(range(99))

    def put_or_interrupt(self: Any, source: str, target: str, **options: Any) -> None:
        if target.endswith(".arrow") and next(count) == 3:
            raise KeyboardInterrupt
        put(self, source, target, **options)

    tokenize_corpus(replace(remote, part="2/3"))
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "put_file", put_or_interrupt)
        with pytest.raises(KeyboardInterrupt):
            tokenize_corpus(replace(remote, part="1/3"))
    before = {name: memory.modified(name) for name in memory.glob("/bucket/corpus/data/*")}
    assert len(before) > 3
    with pytest.raises(UsageError, match=r"^memory://bucket/corpus: not finished: 1/3, 3/3 of the parts"):
        tokenize_corpus(replace(remote, merge=True))
    tokenize_corpus(replace(remote, part="1/3"))
    # The interrupted part went on where it was.
    assert {name: memory.modified(name) for name in before} == before
    tokenize_corpus(replace(remote, part="3/3"))
    merged = tokenize_corpus(replace(remote, merge=True))
    assert tokenize_corpus(replace(remote, merge=True)) == merged
    assert merged["totals"] == manifest["totals"]
    assert sorted(name.split("/")[3] for name in memory.find("/bucket/corpus")) == sorted(
        ["manifest.json", *(["data"] * len(shards_of(Path(local.out))))]
        + ["tokenizer"] * len(list((Path(local.out) / "tokenizer").iterdir()))
    )
    memory.get("/bucket/corpus", str(tmp_path / "copy"), recursive=True)
    assert shards_of(tmp_path / "copy") == shards_of(Path(local.out))
    assert sources_of(str(tmp_path / "copy"), "text")


def test_corpus_of_one_job(memory: Any, whole: tuple[TokenizeOptions, dict[str, Any]], tmp_path: Path) -> None:
    local, manifest = whole
    remote = replace(local, files=["memory://texts"], out="memory://out")
    assert tokenize_corpus(remote)["totals"] == manifest["totals"]
    with pytest.raises(UsageError, match=r"^memory://out holds a corpus .*normalization"):
        tokenize_corpus(replace(remote, normalization="NFC"))
    with pytest.raises(SourceError, match=r"^train_data: memory://out: a remote path"):
        sources_of("memory://out", "text")
    memory.pipe_file("/texts/0.jsonl", memory.cat_file("/texts/0.jsonl"))
    with pytest.raises(UsageError, match=r"^memory:///texts/0\.jsonl: has changed"):
        tokenize_corpus(remote)
    with pytest.raises(SourceError, match=r"^memory://nothing/\*: no such file"):
        tokenize_corpus(replace(remote, files=["memory://nothing/*"]))
    with pytest.raises(SourceError, match=r"^nosuch://texts: Protocol not known"):
        tokenize_corpus(replace(remote, files=["nosuch://texts"]))


def test_dataset_repositories(
    hub: LoopbackHub,
    api: HfApi,
    texts: Path,
    whole: tuple[TokenizeOptions, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local, manifest = whole
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.url, "token": hub.token})
    for name in ("org/texts", "org/tokenized"):
        api.create_repo(name, repo_type="dataset")
    api.upload_folder(repo_id="org/texts", folder_path=texts, repo_type="dataset")
    remote = replace(
        local, files=["hf://datasets/org/texts/*.[jp]*"], out="hf://datasets/org/tokenized", shard_tokens=10_000
    )
    for part in ("2/2", "1/2"):
        tokenize_corpus(replace(remote, part=part))
    assert tokenize_corpus(replace(remote, merge=True))["totals"] == manifest["totals"]
    folder = api.snapshot_download("org/tokenized", repo_type="dataset", local_dir=tmp_path / "copy")
    tokenize_corpus(replace(remote, files=local.files, out=str(tmp_path / "again")))
    assert shards_of(Path(folder)) == shards_of(tmp_path / "again")
