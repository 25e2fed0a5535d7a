"""A tokenised corpus holds the tokenizer's ids, whatever happened while it was made, and trains as the texts do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
import runs
from rich.console import Console
from transformers import AutoTokenizer

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.data import tokenize_corpus as job
from llm_jp_modernbert.training.data.blocks import BlockSettings
from llm_jp_modernbert.training.data.readers import SourceError, find_files, read_documents
from llm_jp_modernbert.training.data.sources import check_tokenized_with, read_held_out, sources_of
from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions, tokenize_corpus

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


def test_ctrl_c_stops_all_workers_and_the_same_command_goes_on(data: Data, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    texts = "".join(path.read_text(encoding="utf-8") for path in sorted(data[0].iterdir()))
    (tmp_path / "texts" / "000.jsonl").write_text(texts * 20, encoding="utf-8")
    for number in range(1, 60):
        os.link(tmp_path / "texts" / "000.jsonl", tmp_path / "texts" / f"{number:03d}.jsonl")
    out = tmp_path / "out"
    command = ["tokenize-corpus", tmp_path / "texts", "--tokenizer", data[1], "--out", out, "--workers", "2"]
    running = subprocess.Popen(
        [sys.executable, "-m", "llm_jp_modernbert", *map(str, command)], start_new_session=True, stderr=subprocess.PIPE
    )
    while running.poll() is None and not list(out.glob("data/*.arrow")):
        time.sleep(0.01)
    # As a terminal does: every process of the group gets it.
    os.killpg(running.pid, signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode != 0
    assert b"Traceback" not in told
    assert b"Error" not in told
    assert not (out / "manifest.json").exists()
    finished = {path.name: path.stat().st_mtime_ns for path in (out / "data").iterdir()}
    assert 0 < len(finished) < 60
    assert len(list((out / ".progress").glob("*.jsonl"))) == len(finished)
    assert not list((out / ".progress").glob("*.arrow"))
    tokenize_corpus(TokenizeOptions((str(tmp_path / "texts"),), str(data[1]), out), QUIET)
    shards = contents(out)
    assert len(shards) == 60
    assert len(set(shards.values())) == 1
    assert all((out / "data" / name).stat().st_mtime_ns == then for name, then in finished.items())


@pytest.mark.parametrize("torn", ["at the end", "in the middle"])
def test_a_torn_journal_is_gone_on_from_again_and_again(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str
) -> None:
    """Whether the process ended within a line, or another line was glued to such a one afterwards."""
    whole = tokenize_corpus(options(data, tmp_path / "whole"), QUIET)
    out = tmp_path / "out"

    def stop_before_the_manifest() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(job, "_summary", stopping)
            with pytest.raises(KeyboardInterrupt):
                tokenize_corpus(options(data, out), QUIET)

    def stopping(_: Any) -> None:
        raise KeyboardInterrupt

    stop_before_the_manifest()
    journal = min((out / ".progress").glob("*.jsonl"))
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    whole_lines, half = (lines[:2], lines[2][:-9]) if torn == "at the end" else (lines[:1], lines[1][:9] + lines[2])
    journal.write_bytes(b"".join(whole_lines) + half)
    stop_before_the_manifest()
    assert journal.read_bytes() == b"".join(lines)
    assert tokenize_corpus(options(data, out), QUIET) == whole
    assert contents(out) == contents(tmp_path / "whole")


def test_it_is_trained_on_in_its_own_unicode_form(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tokenize_corpus(options(data, out, normalization="NFC"), QUIET)
    sources, tokenizer = sources_of(str(out), "text"), AutoTokenizer.from_pretrained(data[1])
    check_tokenized_with(sources, tokenizer, "NFC")
    said = (
        rf"^{out} was tokenised with normalization=NFC, and this run has normalization=NFKC\. "
        r"Give normalization=NFC, or tokenise the texts again with --normalization NFKC\.$"
    )
    with pytest.raises(SourceError, match=said):
        check_tokenized_with(sources, tokenizer, "NFKC")
    settings = BlockSettings(runs.SEQUENCE, normalization="NFKC")
    with pytest.raises(SourceError, match=said):
        read_held_out(str(out), "text", settings, tokenizer, 100)
    # Texts are brought to any form, and an old manifest does not say which one it was.
    check_tokenized_with(sources_of(str(data[0]), "text"), tokenizer, "NFKC")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    del manifest["normalization"]
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    check_tokenized_with(sources, tokenizer, "NFKC")


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
    with pytest.raises(SourceError, match=r"out/data/00000-.*\.arrow: tokenised already.*Name the texts themselves"):
        tokenize_corpus(options((tmp_path / "out", data[1]), tmp_path / "again"), QUIET)
    assert not (tmp_path / "again").exists()
    other = runs.write_tokenizer(tmp_path / "other", runs.write_corpus(tmp_path / "corpus", documents=9))
    keys = runs.recipe(data[0], other, tmp_path / "run", train_data=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"was tokenised with .*, not with the tokenizer of this run"):
        runs.run(keys)
