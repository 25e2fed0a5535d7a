"""Parts of a corpus, tokenized by separate jobs, make up the corpus that one job writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
from forked import forked, run_forked, stopping_after_a_shard
from transformers import AutoTokenizer

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.data.blocks import BlockMaker, BlockSettings
from llm_jp_modernbert.training.data.masking import Masking
from llm_jp_modernbert.training.data.order import FileShard, Source, changed_shards, shard_list
from llm_jp_modernbert.training.data.readers import SourceError, find_files
from llm_jp_modernbert.training.data.sources import sources_of
from llm_jp_modernbert.training.data.stream import BatchStream
from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions, tokenize_corpus


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven files, so that three parts have different numbers of them."""
    return runs.write_corpus(tmp_path_factory.mktemp("parts") / "texts", files=7, documents=30)


def options(texts: Path, tokenizer: Path, out: Path, **changes: Any) -> TokenizeOptions:
    return TokenizeOptions([str(texts)], str(tokenizer), str(out), shard_tokens=300, **changes)


@pytest.fixture
def whole(texts: Path, data: tuple[Path, Path], tmp_path: Path) -> TokenizeOptions:
    """The corpus that one job writes."""
    settings = options(texts, data[1], tmp_path / "whole")
    tokenize_corpus(settings)
    return settings


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def batches(corpus: Path, tokenizer_folder: Path, count: int = 40) -> Iterator[dict[str, Any]]:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    settings = BlockSettings(runs.SEQUENCE, characters=1500, seed=3)
    maker = BlockMaker(sources_of(str(corpus), "text"), settings, tokenizer)
    masking = Masking(tokenizer.mask_token_id, len(tokenizer), tokenizer.all_special_ids)
    stream = BatchStream(maker, masking, rows=lambda step: 4, lanes=2)
    return islice(stream.batches(), count)


def test_merged_parts_equal_one_job(whole: TokenizeOptions, tmp_path: Path) -> None:
    parts = replace(whole, out=str(tmp_path / "parts"))
    for part in ("3/3", "1/3", "2/3"):
        tokenize_corpus(replace(parts, part=part))
    # A finished part is left as it is.
    before = {path: path.stat().st_mtime_ns for path in Path(parts.out).rglob("*.arrow")}
    tokenize_corpus(replace(parts, part="3/3"))
    assert {path: path.stat().st_mtime_ns for path in Path(parts.out).rglob("*.arrow")} == before
    with pytest.raises(SourceError, match=r"parts: an unfinished tokenized corpus"):
        find_files([str(parts.out)])
    manifest = tokenize_corpus(replace(parts, merge=True))
    assert files_of(Path(parts.out)) == files_of(Path(whole.out))
    assert tokenize_corpus(replace(parts, merge=True)) == manifest == tokenize_corpus(parts)
    with pytest.raises(UsageError, match=r"parts: a finished corpus, whose parts are merged"):
        tokenize_corpus(replace(parts, part="1/3"))
    tokenizer = Path(whole.tokenizer)
    pairs = zip(batches(Path(parts.out), tokenizer), batches(Path(whole.out), tokenizer), strict=True)
    for one, other in pairs:
        for name in ("input_ids", "labels", "cu_seqlens"):
            assert np.array_equal(one[name], other[name])
        assert np.array_equal(one["info"].samples, other["info"].samples)


def test_resuming_compares_the_manifest_with_that_of_the_checkpoint(whole: TokenizeOptions, tmp_path: Path) -> None:
    sources = sources_of(whole.out, "text")
    saved = [shard_list(source) for source in sources]
    copy = shutil.copytree(whole.out, tmp_path / "copy")
    same = sources_of(str(copy), "text")
    assert changed_shards(saved, [shard_list(source) for source in same], same) is None
    # Earlier versions read both ends of each file.
    before = [
        shard_list(replace(source, shards=[FileShard(shard.name) for shard in source.shards])) for source in sources
    ]
    assert before != saved
    assert changed_shards(before, saved, sources) is None
    file = copy / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest["sources"][2]["shards"][1]["tokens"] += 1
    other = shutil.copytree(copy, tmp_path / "other")
    (other / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    changed = sources_of(str(other), "text")
    shard = manifest["sources"][2]["shards"][1]["file"]
    message = changed_shards(saved, [shard_list(source) for source in changed], changed)
    assert f"the content of {other / 'data' / shard} has changed" in str(message)


@pytest.mark.parametrize(
    "content", ['{"shards": ["a"]}', '{"tokenizer": "a"}', '{"sources": [{"shards": [1]}]}', "[1]", "{", "[" * 100_000]
)
def test_files_beside_another_manifest_are_compared_by_content(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
    file = tmp_path / "pages" / "a.jsonl"
    file.parent.mkdir()
    file.write_text('{"text": "文書"}\n', encoding="utf-8")
    [source] = sources_of(str(tmp_path), "text")
    assert str(file) in [shard.name for shard in source.shards]
    assert shard_list(source) == shard_list(Source([FileShard(shard.name) for shard in source.shards]))


def test_common_directory_of_shards() -> None:
    def directory(*names: str) -> str:
        [described] = [Source([FileShard(name) for name in names])]
        other = [{"count": 0, "sha256": ""}]
        return str(changed_shards(other, [shard_list(described, sampled=False)], [described])).split(" have ")[0]

    assert directory("/a/b/1", "/a/b/2") == "the files of /a/b"
    assert directory("/a/b/1", "/a/c/d/2") == "the files of /a"
    assert directory("/a/b/1", "/a/2") == "the files of /a"
    assert directory("a/b/1") == "the files of a/b"
    assert directory("1", "a/2") == "the files of 1"
    assert directory("1", "2") == "the files of 1"
    assert directory("/1", "/a/2") == "the files of /1"


def command(settings: TokenizeOptions, part: str) -> list[str]:
    arguments = [settings.files[0], "--tokenizer", settings.tokenizer, "--out", settings.out, "--part", part]
    return ["tokenize-corpus", "--shard-tokens=300", *arguments]


def test_killed_part_resumes_and_its_second_job_is_refused(whole: TokenizeOptions, tmp_path: Path) -> None:
    parts = replace(whole, out=str(tmp_path / "parts"))
    tokenize_corpus(replace(parts, part="1/3"))
    shards = len(list((Path(parts.out) / "data").iterdir()))
    # Still at work while the second one starts.
    with forked(*command(parts, "2/3"), main=stopping_after_a_shard) as running:
        while running.is_alive() and len(list((Path(parts.out) / "data").iterdir())) == shards:
            time.sleep(0.002)
        second = run_forked(*command(parts, "2/3"))
        assert second.returncode == 1
        assert "Traceback" not in second.stderr
        [line] = [line for line in second.stderr.splitlines() if line.startswith("Error:")]
        assert f"{parts.out}: another job is tokenizing part 2/3." in line
        # Another part is not in the way.
        tokenize_corpus(replace(parts, part="3/3"))
        running.send_signal(signal.SIGKILL)
        running.wait()
    with pytest.raises(UsageError, match=r"parts: not finished: 2/3 of the parts\. Run"):
        tokenize_corpus(replace(parts, merge=True))
    tokenize_corpus(replace(parts, part="2/3"))
    tokenize_corpus(replace(parts, merge=True))
    assert files_of(Path(parts.out)) == files_of(Path(whole.out))


def test_mistakes_name_the_parts(whole: TokenizeOptions, tmp_path: Path) -> None:
    parts = replace(whole, out=str(tmp_path / "parts"))
    merge = replace(parts, merge=True)
    with pytest.raises(UsageError, match=r"parts: holds no parts"):
        tokenize_corpus(merge)
    assert not Path(parts.out).exists()
    for text in ("0/3", "4/3", "1", "1/3/2", "a/b", "-1/3"):
        with pytest.raises(UsageError, match=rf"^--part {text}: give the number"):
            tokenize_corpus(replace(parts, part=text))
    with pytest.raises(UsageError, match=r"^--part 1/8: the corpus has fewer files \(7\) than parts"):
        tokenize_corpus(replace(parts, part="1/8"))
    with pytest.raises(UsageError, match="exclude each other"):
        tokenize_corpus(replace(merge, part="1/3"))
    with pytest.raises(UsageError, match=r"^--out .* is not empty"):
        tokenize_corpus(replace(parts, part="1/3", out=whole.tokenizer))
    with pytest.raises(UsageError, match=r"^/proc/parts/.*: cannot be written"):
        tokenize_corpus(replace(parts, part="1/3", out="/proc/parts"))
    tokenize_corpus(replace(parts, part="1/3"))
    with pytest.raises(UsageError, match=r"already split into 3 parts, and into 4"):
        tokenize_corpus(replace(parts, part="1/4"))
    with pytest.raises(UsageError, match=r"holds parts of a corpus\. Run tokenize-corpus with --part or --merge"):
        tokenize_corpus(parts)
    with pytest.raises(UsageError, match=r"part-00001-of-00003 .* other settings \(normalization\)"):
        tokenize_corpus(replace(parts, part="1/3", normalization="NFKC"))
    with pytest.raises(UsageError, match=r"not finished: 2/3, 3/3 of the parts"):
        tokenize_corpus(merge)
    tokenize_corpus(replace(parts, part="2/3", normalization="NFKC"))
    tokenize_corpus(replace(parts, part="3/3", files=[*parts.files, str(Path(whole.tokenizer) / "tokenizer.json")]))
    with pytest.raises(UsageError, match=r": 2/3 \(normalization\), 3/3 \(files\) of the parts"):
        tokenize_corpus(merge)
    assert not (Path(parts.out) / "manifest.json").exists()


def test_missing_shard_is_named(whole: TokenizeOptions, tmp_path: Path) -> None:
    parts = replace(whole, out=str(tmp_path / "parts"))
    for number in (1, 2):
        tokenize_corpus(replace(parts, part=f"{number}/2"))
    lost = min((Path(parts.out) / "data").iterdir())
    lost.rename(tmp_path / lost.name)
    with pytest.raises(UsageError, match=rf"^{lost}: is missing"):
        tokenize_corpus(replace(parts, merge=True))
    (tmp_path / lost.name).rename(lost)
    assert tokenize_corpus(replace(parts, merge=True)) == json.loads(
        (Path(whole.out) / "manifest.json").read_text(encoding="utf-8")
    )


def test_part_refuses_a_corpus_without_parts(whole: TokenizeOptions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".progress").mkdir(parents=True)
    os.rename(Path(whole.out) / "data", out / "data")
    (out / ".progress" / "header.json").write_text("{}")
    with pytest.raises(UsageError, match=r"out: a job without --part has begun this corpus"):
        tokenize_corpus(replace(whole, out=str(out), part="1/2"))


def test_slurm_array_and_merge_job(tmp_path: Path) -> None:
    script = Path(tokenize_corpus.__code__.co_filename).parents[1] / "slurm" / "tokenize.sbatch"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "llm-jp-modernbert"
    program.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/arguments\n', encoding="utf-8")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    arguments = ["a b/*.jsonl", "--tokenizer", "t", "--out", "o"]
    # As sbatch sets them for `--array=1-64`.
    array = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "64", "SLURM_CPUS_PER_TASK": "32"}
    for job, more in ((array, ["--part", "7/64", "--workers", "32"]), ({}, ["--merge"])):
        given = [*arguments, *([] if job else more)]
        subprocess.run(["bash", str(script), *given], env={**environment, **job}, check=True)
        received = (tmp_path / "arguments").read_text(encoding="utf-8").splitlines()
        assert received == ["tokenize-corpus", *arguments, *more]
