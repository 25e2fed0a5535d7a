"""A tokenized corpus holds the tokenizer's ids, survives interruptions, and trains like its texts."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import runs
from file_limits import file_size_limit
from forked import Running, forked, run_forked, stopping_after_a_shard
from transformers import AutoTokenizer

from llm_jp_modernbert.core.errors import UsageError, is_failed_write
from llm_jp_modernbert.training.data import tokenize_file
from llm_jp_modernbert.training.data.blocks import BlockSettings
from llm_jp_modernbert.training.data.readers import SourceError, find_files, read_documents
from llm_jp_modernbert.training.data.sources import check_tokenized_with, read_held_out, sources_of
from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions, tokenize_corpus

Data = tuple[Path, Path]


def options(data: Data, out: Path, **changes: Any) -> TokenizeOptions:
    return TokenizeOptions([str(data[0])], str(data[1]), str(out), shard_tokens=300, **changes)


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, ending: str, after: int) -> Iterator[None]:
    """Raises KeyboardInterrupt when a file is renamed to a name with an ending for the `after + 1`-th time."""
    replace, count = os.replace, itertools.count()

    def replace_or_interrupt(source: Any, target: Any) -> None:
        if str(target).endswith(ending) and next(count) == after:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_interrupt)
        with pytest.raises(KeyboardInterrupt):
            yield


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


@pytest.mark.parametrize("workers", [1, 2])
def test_ids_equal_the_tokenizer(data: Data, tmp_path: Path, workers: int) -> None:
    manifest = tokenize_corpus(options(data, tmp_path / "out", workers=workers))
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
def test_interrupted_job_ends_with_the_same_bytes(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(tokenize_file, "BATCH_CHARACTERS", 100)
    whole = tokenize_corpus(options(data, tmp_path / "whole"))
    with interrupted(monkeypatch, "arrow", after=stop):
        tokenize_corpus(options(data, tmp_path / "parts"))
    assert not (tmp_path / "parts" / "manifest.json").exists()
    parts = tokenize_corpus(options(data, tmp_path / "parts"))
    assert parts == whole
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    # A finished corpus is returned unchanged.
    assert tokenize_corpus(options(data, tmp_path / "parts")) == whole


def test_interrupted_job_counts_every_unreadable_row_once(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (data[0] / "0.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "0.jsonl").write_text("\n{\n".join(lines) + "\n", encoding="utf-8")
    sources = (tmp_path / "texts", data[1])
    whole = tokenize_corpus(options(sources, tmp_path / "whole"))
    assert whole["totals"]["broken_rows"] == len(lines) - 1
    with interrupted(monkeypatch, "arrow", after=2):
        tokenize_corpus(options(sources, tmp_path / "parts"))
    assert tokenize_corpus(options(sources, tmp_path / "parts")) == whole


def test_ctrl_c_stops_all_workers_and_the_same_command_resumes(data: Data, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    texts = "".join(path.read_text(encoding="utf-8") for path in sorted(data[0].iterdir()))
    (tmp_path / "texts" / "000.jsonl").write_text(texts * 20, encoding="utf-8")
    for number in range(1, 20):
        os.link(tmp_path / "texts" / "000.jsonl", tmp_path / "texts" / f"{number:03d}.jsonl")
    out = tmp_path / "out"
    command = ["tokenize-corpus", tmp_path / "texts", "--tokenizer", data[1], "--out", out, "--workers", 2]
    with forked(*command, own_group=True) as running:
        wait_for_a_shard(running, out)
        # A terminal sends it to every process of the group.
        os.killpg(running.pid, signal.SIGINT)
        ended = running.wait()
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert "Error" not in ended.stderr
    assert not (out / "manifest.json").exists()
    finished = {path.name: path.stat().st_mtime_ns for path in (out / "data").iterdir()}
    assert 0 < len(finished) < 20
    assert len(list((out / ".progress").glob("*.jsonl"))) == len(finished)
    assert not list((out / ".progress").glob("*.arrow"))
    tokenize_corpus(TokenizeOptions([str(tmp_path / "texts")], str(data[1]), str(out)))
    shards = contents(out)
    assert len(shards) == 20
    assert len(set(shards.values())) == 1
    assert all((out / "data" / name).stat().st_mtime_ns == then for name, then in finished.items())


def command(data: Data, out: Path, *more: object) -> list[object]:
    return ["tokenize-corpus", data[0], "--tokenizer", data[1], "--out", out, "--shard-tokens", 300, *more]


def error_line(stderr: str) -> str:
    assert "Traceback" not in stderr
    [line] = [line for line in stderr.splitlines() if line.startswith("Error:")]
    return line


def wait_for_a_shard(running: Running, out: Path) -> None:
    while running.is_alive() and not list(out.glob("data/*.arrow")):
        time.sleep(0.01)
    assert running.is_alive()


@pytest.fixture
def many(data: Data, tmp_path: Path) -> Data:
    """A corpus that is tokenized for some seconds."""
    texts = b"".join(path.read_bytes() for path in sorted(data[0].iterdir()))
    (tmp_path / "texts").mkdir()
    for number in range(10):
        (tmp_path / "texts" / f"{number:02d}.jsonl").write_bytes(texts * 4)
    return tmp_path / "texts", data[1]


def test_second_process_is_refused_and_the_first_one_finishes(many: Data, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # Still at work while the second one starts.
    with forked(*command(many, out), main=stopping_after_a_shard) as first:
        wait_for_a_shard(first, out)
        second = run_forked(*command(many, out))
        assert second.returncode == 1
        assert f"{out}: another tokenize-corpus is writing it" in error_line(second.stderr)
        first.send_signal(signal.SIGCONT)
        assert first.wait().returncode == 0
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    alone = tokenize_corpus(options(many, tmp_path / "alone"))
    assert {**manifest, "sources": None} == {**alone, "sources": None}
    assert contents(out) == contents(tmp_path / "alone")
    shards = [shard["file"] for source in manifest["sources"] for shard in source["shards"]]
    assert sorted(shards) == sorted(contents(out))


@pytest.mark.parametrize("share", [0.5, 1.5])
def test_full_disk_is_one_line_and_the_same_command_resumes(many: Data, tmp_path: Path, share: float) -> None:
    settings = TokenizeOptions([str(many[0])], str(many[1]), str(tmp_path / "out"))
    whole = tokenize_corpus(replace(settings, out=str(tmp_path / "whole")))
    largest = max(path.stat().st_size for path in (tmp_path / "whole" / "data").iterdir())
    tokenizer = (tmp_path / "whole" / "tokenizer" / "tokenizer.json").stat().st_size
    assert largest > 1.5 * tokenizer
    with file_size_limit(int(share * tokenizer)), pytest.raises(Exception, match=r"too large|size limit") as error:
        tokenize_corpus(settings)
    assert is_failed_write(error.value)
    assert not list((tmp_path / "out" / "data").iterdir())
    assert not list((tmp_path / "out" / ".progress").glob("*.arrow"))
    assert tokenize_corpus(settings) == whole
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def workers_of(running: Running) -> list[int]:
    children = map(int, Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split())
    return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_while_workers_start_prints_no_traceback(data: Data, tmp_path: Path) -> None:
    with forked(*command(data, tmp_path / "out", "--workers", 2), own_group=True) as running:
        while running.is_alive() and len(workers_of(running)) < 2:
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGINT)
        ended = running.wait()
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("victim", ["worker", "parent"])
def test_killed_process_ends_the_job_and_the_same_command_resumes(many: Data, tmp_path: Path, victim: str) -> None:
    out = tmp_path / "out"
    with forked(*command(many, out, "--workers", 2)) as running:
        wait_for_a_shard(running, out)
        workers = workers_of(running)
        assert len(workers) == 2
        os.kill(workers[0] if victim == "worker" else running.pid, signal.SIGKILL)
        ended = running.wait()
    if victim == "worker":
        assert ended.returncode == 1
        line = error_line(ended.stderr)
        assert "worker process ended unexpectedly" in line
        assert "--workers" in line
    deadline = time.monotonic() + 120
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_running, workers))
    tokenize_corpus(options(many, out))
    tokenize_corpus(options(many, tmp_path / "whole"))
    assert contents(out) == contents(tmp_path / "whole")


def grow(path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write('{"text": "新しい文書である。"}\n')


def cut(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]))


def reorder(path: Path) -> None:
    """Changes the content of a file, but neither its size nor its time stamp."""
    before = path.stat()
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [grow, cut, reorder])
@pytest.mark.parametrize("moment", ["reading", "interrupted", "finished"])
def test_changed_source_file_is_refused(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], moment: str
) -> None:
    texts, out = tmp_path / "texts", tmp_path / "out"
    shutil.copytree(data[0], texts)
    sources, changed = (texts, data[1]), texts / "0.jsonl"
    original = changed.read_bytes()
    refused = pytest.raises(
        UsageError, match=rf"^{changed}: has changed since tokenize-corpus began to read it\. Rest"
    )
    whole = tokenize_corpus(options(sources, tmp_path / "whole"))
    monkeypatch.setattr(tokenize_file, "BATCH_CHARACTERS", 100)
    if moment == "finished":
        tokenize_corpus(options(sources, out))
    elif moment == "interrupted":
        with interrupted(monkeypatch, "arrow", after=2):
            tokenize_corpus(options(sources, out))
    else:
        replace, shards = os.replace, itertools.count()

        def replace_and_change(source: Any, target: Any) -> None:
            replace(source, target)
            if str(target).endswith("arrow") and next(shards) == 0:
                change(changed)

        with monkeypatch.context() as patch, refused:
            patch.setattr(os, "replace", replace_and_change)
            tokenize_corpus(options(sources, out))
    if moment != "reading":
        change(changed)
    for _ in range(2):
        with refused:
            tokenize_corpus(options(sources, out))
        assert (out / "manifest.json").exists() == (moment == "finished")
    # The same content with another time stamp is the same file.
    changed.write_bytes(original)
    manifest = tokenize_corpus(options(sources, out))
    assert manifest["totals"] == whole["totals"]
    assert contents(out) == contents(tmp_path / "whole")
    for source in manifest["sources"]:
        content = Path(source["path"]).read_bytes()
        assert (source["size"], source["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


DAMAGED = {
    "mistyped": '{"version": 1, "tokenizer": [], "sources": {}}',
    "nested": "[" * 100_000,
    "list": "[1]",
    "cut": '{"version": 1, "tokeni',
    "shards": '{"version": 1, "tokenizer": {"name": 3}, "sources": [{"shards": 1}]}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_manifest_is_named(data: Data, tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    tokenize_corpus(options(data, out))
    (out / "manifest.json").write_text(content)
    tokenizer = AutoTokenizer.from_pretrained(data[1])
    for use in (
        lambda: tokenize_corpus(options(data, out)),
        lambda: check_tokenized_with(sources_of(str(out), "text"), tokenizer),
    ):
        with pytest.raises(UsageError, match=rf"^{out}/manifest\.json: "):
            use()
    (out / ".progress").mkdir()
    (out / "manifest.json").rename(out / ".progress" / "header.json")
    with pytest.raises(UsageError, match=rf"^{out}/\.progress/header\.json: "):
        tokenize_corpus(options(data, out))
    with pytest.raises(UsageError, match=rf"^{out}: an unfinished tokenized corpus\. Run the same tokenize-corpus"):
        find_files([str(out)])


def test_odd_file_names_are_tokenized(data: Data, tmp_path: Path) -> None:
    texts = os.fsencode(tmp_path / "texts")
    os.mkdir(texts)
    content = (data[0] / "0.jsonl").read_bytes() + b"{"
    names = [b"a\xffb.jsonl", "長".encode() * 80 + b".jsonl", b"x" * 249 + b".jsonl", b"line\nbreak.jsonl"]
    for name in names:
        Path(os.fsdecode(os.path.join(texts, name))).write_bytes(content)
    sources, out = (tmp_path / "texts", data[1]), tmp_path / "out"
    manifest = tokenize_corpus(options(sources, out))
    assert json.loads((out / "manifest.json").read_bytes().decode()) == manifest
    assert manifest["totals"]["broken_rows"] == len(names)
    assert len(contents(out)) == sum(len(source["shards"]) for source in manifest["sources"])
    assert all(path.name.encode() for path in (out / "data").iterdir())
    assert tokenize_corpus(options(sources, out)) == manifest
    assert sources_of(str(out), "text")


@pytest.mark.parametrize("torn", ["at the end", "in the middle"])
def test_job_resumes_twice_from_a_torn_journal(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str
) -> None:
    """The process ended while writing a line, or another line was appended to an unfinished one."""
    whole = tokenize_corpus(options(data, tmp_path / "whole"))
    out = tmp_path / "out"

    def stop_before_the_manifest() -> None:
        with interrupted(monkeypatch, "manifest.json", after=0):
            tokenize_corpus(options(data, out))

    stop_before_the_manifest()
    journal = min((out / ".progress").glob("*.jsonl"))
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    whole_lines, half = (lines[:2], lines[2][:-9]) if torn == "at the end" else (lines[:1], lines[1][:9] + lines[2])
    journal.write_bytes(b"".join(whole_lines) + half)
    stop_before_the_manifest()
    assert journal.read_bytes() == b"".join(lines)
    assert tokenize_corpus(options(data, out)) == whole
    assert contents(out) == contents(tmp_path / "whole")


def test_normalization_of_corpus_and_run_must_agree(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tokenize_corpus(options(data, out, normalization="NFC"))
    sources, tokenizer = sources_of(str(out), "text"), AutoTokenizer.from_pretrained(data[1])
    check_tokenized_with(sources, tokenizer, "NFC")
    message = (
        rf"^{out} was tokenized with normalization=NFC, but this run has normalization=NFKC\. "
        r"Set normalization=NFC, or tokenize the texts again with --normalization NFKC\.$"
    )
    with pytest.raises(SourceError, match=message):
        check_tokenized_with(sources, tokenizer, "NFKC")
    settings = BlockSettings(runs.SEQUENCE, normalization="NFKC")
    with pytest.raises(SourceError, match=message):
        read_held_out(str(out), "text", settings, tokenizer, 100)
    # Texts can be normalized in any form, and manifests of earlier versions do not name theirs.
    check_tokenized_with(sources_of(str(data[0]), "text"), tokenizer, "NFKC")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    del manifest["normalization"]
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    check_tokenized_with(sources, tokenizer, "NFKC")


def test_tokenized_corpus_trains_like_its_texts(data: Data, tmp_path: Path) -> None:
    tokenize_corpus(TokenizeOptions([str(data[0])], str(data[1]), str(tmp_path / "out")))
    settings = {"max_steps": 12, "logging_steps": 1, "save_strategy": "no"}
    keys = runs.recipe(*data, tmp_path / "texts", **settings)
    ahead = {**keys, "output_dir": str(tmp_path / "ahead"), "train_data": str(tmp_path / "out")}
    losses = [[entry.get("loss") for entry in runs.run(each).state.log_history] for each in (keys, ahead)]
    assert len(losses[0]) > 10
    assert losses[0] == losses[1]


def test_mistakes_name_the_way_out(data: Data, tmp_path: Path) -> None:
    tokenize_corpus(options(data, tmp_path / "out"))
    with pytest.raises(UsageError, match=r"tokenized with other settings \(normalization\)\. Name another --out"):
        tokenize_corpus(options(data, tmp_path / "out", normalization="NFKC"))
    with pytest.raises(UsageError, match=r"^--out .* is not empty\. Name a new directory"):
        tokenize_corpus(options(data, data[1]))
    with pytest.raises(
        SourceError, match=r"out/data/00000-.*\.arrow: already tokenized.*Name the files with the texts"
    ):
        tokenize_corpus(options((tmp_path / "out", data[1]), tmp_path / "again"))
    assert not (tmp_path / "again").exists()
    other = runs.write_tokenizer(tmp_path / "other", runs.write_corpus(tmp_path / "corpus", documents=9))
    keys = runs.recipe(data[0], other, tmp_path / "run", train_data=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"was tokenized with .*, not with the tokenizer of this run"):
        runs.run(keys)
