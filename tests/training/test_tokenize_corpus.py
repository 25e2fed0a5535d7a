"""A tokenised corpus holds the tokenizer's ids, whatever happened while it was made, and trains as the texts do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import runs
from rich.console import Console
from transformers import AutoTokenizer

from llm_jp_modernbert.errors import UsageError
from llm_jp_modernbert.training import tokenize_corpus as job
from llm_jp_modernbert.training.sources import find_files, read_documents
from llm_jp_modernbert.training.tokenize_corpus import TokenizeOptions, tokenize_corpus

Data = tuple[Path, Path]
QUIET = Console(quiet=True)


def options(data: Data, out: Path, **changes: Any) -> TokenizeOptions:
    return TokenizeOptions((str(data[0]),), str(data[1]), out, shard_tokens=300, **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


@pytest.mark.parametrize("workers", [1, 2])
def test_ids_are_those_of_the_tokenizer(data: Data, tmp_path: Path, workers: int) -> None:
    manifest = tokenize_corpus(options(data, tmp_path / "out", workers=workers), QUIET)
    texts = [document.text for path in find_files([str(data[0])]) for document in read_documents(path)]
    expected = AutoTokenizer.from_pretrained(data[1])(texts, add_special_tokens=False)["input_ids"]
    shards = find_files([str(tmp_path / "out")])
    loaded = datasets.load_dataset("arrow", data_files=shards, cache_dir=str(tmp_path / "cache"), split="train")
    assert loaded["input_ids"] == expected
    assert loaded["characters"] == [len(text) for text in texts]
    assert datasets.Dataset.from_file(shards[0])["input_ids"] == expected[: len(datasets.Dataset.from_file(shards[0]))]
    totals = manifest["totals"]
    assert totals["documents"] == len(texts)
    assert totals["tokens"] == sum(map(len, expected))
    assert totals["bytes"] == sum(len(text.encode()) for text in texts)
    assert len(shards) > 3
    assert all(shard["tokens"] < 300 + max(map(len, expected)) for s in manifest["sources"] for shard in s["shards"])
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_job_that_was_stopped_ends_with_the_same_bytes(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(job, "_BATCH_CHARACTERS", 100)
    whole = tokenize_corpus(options(data, tmp_path / "whole"), QUIET)
    finish = job._Shard.finish
    finished = 0

    def stopping(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal finished
        if finished == stop:
            raise KeyboardInterrupt
        finish(self, *args, **kwargs)
        finished += 1

    monkeypatch.setattr(job._Shard, "finish", stopping)
    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus(options(data, tmp_path / "parts"), QUIET)
    assert not (tmp_path / "parts" / "manifest.json").exists()
    monkeypatch.setattr(job._Shard, "finish", finish)
    parts = tokenize_corpus(options(data, tmp_path / "parts"), QUIET)
    assert parts == whole
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    # Once more: there is nothing left to do.
    assert tokenize_corpus(options(data, tmp_path / "parts"), QUIET) == whole


def test_training_on_it_is_training_on_the_texts(data: Data, tmp_path: Path) -> None:
    tokenize_corpus(TokenizeOptions((str(data[0]),), str(data[1]), tmp_path / "out"), QUIET)
    settings = {"max_steps": 12, "logging_steps": 1, "save_strategy": "no"}
    keys = runs.recipe(*data, tmp_path / "texts", **settings)
    ahead = {**keys, "output_dir": str(tmp_path / "ahead"), "train_data": str(tmp_path / "out")}
    one, other = (runs.run(each) for each in (keys, ahead))
    assert [e["loss"] for e in one.state.log_history[:-1]] == [e["loss"] for e in other.state.log_history[:-1]]


def test_mistakes(data: Data, tmp_path: Path) -> None:
    tokenize_corpus(options(data, tmp_path / "out"), QUIET)
    with pytest.raises(UsageError, match=r"tokenised otherwise \(normalization differ\)\. Name another --out"):
        tokenize_corpus(options(data, tmp_path / "out", normalization="NFKC"), QUIET)
    with pytest.raises(UsageError, match="is not empty, and no tokenised corpus"):
        tokenize_corpus(options(data, data[1]), QUIET)
    other = runs.write_tokenizer(tmp_path / "other", runs.write_corpus(tmp_path / "corpus", documents=9))
    keys = runs.recipe(data[0], other, tmp_path / "run", train_data=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"was tokenised with .*, not with the tokenizer of this run"):
        runs.run(keys)
