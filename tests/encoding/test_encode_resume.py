"""`encode` after kills and with several processes writes the same files as an uninterrupted run."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from checkpoints import TEXTS

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.encoding.encode import encode
from llm_jp_modernbert.encoding.options import EncodeOptions

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def options(modernbert: Path, tmp_path: Path) -> EncodeOptions:
    """Options of a job with 16 shards; some rows are blank or unreadable."""
    draw = random.Random(0)
    rows = [json.dumps({"text": "".join(draw.choices(TEXTS, k=draw.randint(1, 3)))}) for _ in range(240)]
    rows[7:60:10] = ["", "{", '{"text": 1}', "", "[]", '{"x": "y"}']
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return EncodeOptions(str(modernbert), [str(source)], tmp_path / "whole", rows_per_shard=15)


def files(out: Path) -> dict[str, bytes]:
    """All files of a directory, hidden ones included."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def start(options: EncodeOptions, rank: int = 0, prepare: Callable[[], None] = lambda: None) -> Any:
    """Runs `encode` in a forked process.

    Args:
        rank: number of the process.
        prepare: called in the process before.
    """

    def work() -> None:
        os.environ["RANK"] = str(rank)
        prepare()
        encode(options)

    process = FORK.Process(target=work)
    process.start()
    return process


def kill_later(shards: int, seconds: float, begins: Any = None) -> None:
    """Kills this process some time after it has finished a number of shards, for each of which it takes longer.

    Args:
        begins: event that is set when this time begins.
    """
    killer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    replace_file, finished = os.replace, itertools.count(1)

    def replace_slowly(source: Any, target: Any) -> None:
        replace_file(source, target)
        if Path(target).name.startswith("part-"):
            if next(finished) == shards:
                if begins is not None:
                    # A kill before it returns would leave the event locked.
                    begins.set()
                killer.start()
            time.sleep(0.05)

    os.replace = replace_slowly
    if shards == 0:
        killer.start()


def wait_with_a_shard(event: Any) -> None:
    """Makes this process wait for an event before it finishes its first shard."""
    replace_file = os.replace

    def replace_later(source: Any, target: Any) -> None:
        if Path(target).name.startswith("part-"):
            assert event.wait(120)
        replace_file(source, target)

    os.replace = replace_later


def join_killed(process: Any) -> None:
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, "finished before the kill"


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_killed_run_equals_uninterrupted_run(options: EncodeOptions, tmp_path: Path, precision: Any) -> None:
    options = replace(options, precision=precision)
    encode(options)
    killed = replace(options, out=tmp_path / "killed")
    draw = random.Random(precision)
    for shards in (0, 4, 5):
        join_killed(start(killed, prepare=partial(kill_later, shards, draw.uniform(0, 0.05))))
    encode(killed)
    assert files(killed.out) == files(options.out)
    encode(killed)
    assert files(killed.out) == files(options.out)


def test_processes_share_the_shards_and_take_over_those_of_killed_ones(options: EncodeOptions, tmp_path: Path) -> None:
    encode(options)
    shared = replace(options, out=tmp_path / "shared")
    killing = FORK.Event()
    first = start(shared, prepare=partial(kill_later, 2, 0.01, killing))
    second = start(shared, rank=1, prepare=partial(wait_with_a_shard, killing))
    join_killed(first)
    second.join(120)
    assert second.exitcode == 0
    assert files(shared.out) == files(options.out)


def test_counts_and_skipped_rows_are_reported(options: EncodeOptions, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llm_jp_modernbert"):
        counts = encode(options)
    assert (counts.rows, counts.texts, counts.blank, counts.skipped) == (240, 234, 2, 4)
    assert "rows.jsonl, row 18: not JSON" in caplog.text
    assert "4 unusable rows skipped" in caplog.text
    assert "2 blank rows" in caplog.text
    table = pyarrow.parquet.read_table(options.out / "data")
    assert table.num_rows == 234
    assert json.loads((options.out / "encode.json").read_text())["results"]["texts"] == 234


def test_strict_stops_at_the_first_unusable_row(options: EncodeOptions) -> None:
    with pytest.raises(UsageError, match=r"rows\.jsonl, row 18"):
        encode(replace(options, strict=True))
    encode(options)
    with pytest.raises(UsageError, match=r"part-00001.parquet: .* skipped by a run without --strict"):
        encode(replace(options, strict=True))


def test_failed_beginning_does_not_block_the_directory(options: EncodeOptions, monkeypatch: Any) -> None:
    def full(*arguments: Any) -> None:
        (options.out / ".encode.json.1").touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("llm_jp_modernbert.encoding.folder.write_json", full)
        with pytest.raises(OSError, match="No space"):
            encode(options)
    encode(options)
    assert not list(options.out.glob(".*"))


def test_result_in_an_input_folder_is_refused(options: EncodeOptions, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is in the input"):
        encode(replace(options, inputs=[str(tmp_path)]))


def test_directory_that_cannot_be_created_is_refused(options: EncodeOptions) -> None:
    with pytest.raises(UsageError, match=r"^/proc/out: cannot be written"):
        encode(replace(options, out=Path("/proc/out")))


def test_other_settings_and_inputs_are_refused(options: EncodeOptions) -> None:
    encode(options)
    before = files(options.out)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"pooling": "cls"}, "pooling=null, but this run has pooling=cls"),
        ({"dimensions": 8}, "dimensions=null, but this run has dimensions=8"),
        ({"rows_per_shard": 30}, "rows_per_shard=15"),
        ({"scores": True}, "job=Embed, but this run has job=Score"),
        ({"inputs": [*options.inputs, *options.inputs]}, "input"),
    ]
    for changes, message in refused:
        with pytest.raises(UsageError, match=message):
            encode(replace(options, **changes))
    Path(options.inputs[0]).write_text('{"text": "x"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=r"rows\.jsonl has changed"):
        encode(options)
    assert files(options.out) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classify": True}, "--classify needs a sequence classification model"),
        ({"scores": True, "pooling": "mean"}, "--pooling does not apply with --scores"),
        ({"top_k": 3}, "--top-k only applies with --fill-mask"),
        ({"scores": True, "fill_mask": True}, "exclude each other"),
        ({"id_column": "key"}, "no column 'key'"),
        ({"fill_mask": True, "top_k": 10**6}, "top-k is 1000000"),
    ],
)
def test_refused_options_write_nothing(options: EncodeOptions, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encode(replace(options, **changes))
    assert not options.out.exists()
