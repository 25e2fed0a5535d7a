"""Preparations on several machines, and interrupted ones, give the files of an uninterrupted one on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("datatrove", reason="datatrove is not installed")

from corpora import sentences, write

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.corpora.prepare import prepare_corpus
from llm_jp_modernbert.training.corpora.recipe import CorpusRecipe, load_recipe

SBATCH = """#!/bin/sh
# Stands in for Slurm's sbatch: keeps the script and its options, and prints a job number.
folder=$(dirname "$0")/jobs
number=$(ls "$folder" | wc -l)
for last; do :; done
cp "$last" "$folder/$number"
echo "$@" >> "$folder/$number"
echo "Submitted batch job $number"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "pages"
    for name in "abc":
        write(
            folder / f"{name}.jsonl", [*(sentences(seed + ord(name)) for seed in range(15)), sentences(99), "短い。"]
        )
    return folder


def recipe_of(data: Path, out: Path, *overrides: str) -> CorpusRecipe:
    return load_recipe(
        "japanese-web", [f"data={data}", f"output_dir={out}", "tasks=3", "validation_share=0.2", *overrides]
    )


def contents(out: Path) -> dict[str, bytes]:
    """All files but task markers and logs."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and "work" not in path.relative_to(out).parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected") / "out"
    prepare_corpus(recipe_of(data, out), workers=1)
    files = contents(out)
    assert {"manifest.json", "report.json", "report.html", "train/000_00000.parquet"} <= files.keys()
    return files


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that ended, but that nobody has waited for, does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("stage", ["clean", "near-signatures"])
def test_killed_job_resumes_to_the_same_bytes(
    stage: str, data: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = [f"data={data}", f"output_dir={out}", "tasks=3", "validation_share=0.2", "--workers", "2"]
    command = [sys.executable, "-m", "llm_jp_modernbert", "prepare-corpus", "japanese-web", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    markers = out / "work" / "logs" / stage / "completions"
    children: list[psutil.Process] = []
    while not children:
        assert process.poll() is None
        time.sleep(0.01)
        if markers.is_dir() and any(markers.iterdir()):
            # A stopped process starts no others. Between two stages it has none.
            process.send_signal(signal.SIGSTOP)
            # The manager of datatrove's queues is one of them.
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGKILL if children else signal.SIGCONT)
    process.wait()
    deadline = time.monotonic() + 120
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, children))
    done = list((out / "work" / "logs").glob("*/completions/*"))
    assert done
    times = {marker: marker.stat().st_mtime_ns for marker in done}
    prepare_corpus(recipe_of(data, out), workers=1)
    assert contents(out) == expected
    assert {marker: marker.stat().st_mtime_ns for marker in done} == times


def test_slurm_jobs_wait_for_each_other(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_folder, out = tmp_path / "bin", tmp_path / "out"
    (bin_folder / "jobs").mkdir(parents=True)
    (bin_folder / "sbatch").write_text(SBATCH)
    (bin_folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    settings = "slurm={partition: long, time: '2:00:00', mem_per_cpu_gb: 8, sbatch_args: {account: nlp}}"
    assert prepare_corpus(recipe_of(data, out, settings), "slurm", workers=2) is None
    scripts = [path.read_text() for path in sorted((bin_folder / "jobs").iterdir(), key=lambda path: int(path.name))]
    # After each job, another one merges datatrove's statistics.
    jobs = {number: script for number, script in enumerate(scripts) if "launch_pickled_pipeline" in script}
    names = [re.search("--job-name=(.*)", script)[1] for script in jobs.values()]  # type: ignore[index]
    assert names == [
        f"corpus-{stage}"
        for stage in (
            *("clean", "exact-duplicates", "near-signatures", "near-pairs", "near-clusters", "write", "report"),
        )
    ]
    first, *rest = jobs.values()
    for line in ("partition=long", "time=2:00:00", "mem-per-cpu=8G", "account=nlp", "array=0-2%2"):
        assert f"#SBATCH --{line}\n" in first
    assert "--dependency" not in first
    for script, before in zip(rest, jobs, strict=False):
        assert f"--dependency=afterok:{before}" in script
    assert json.loads((out / "work/inputs.json").read_text())["recipe"]["tasks"] == 3


def test_finished_corpus_is_not_submitted_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(data, tmp_path / "out")
    report = prepare_corpus(recipe, workers=1)
    (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert prepare_corpus(recipe, "slurm") == report


def test_missing_slurm_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="sbatch was not found"):
        prepare_corpus(recipe_of(data, tmp_path / "out"), "slurm")


@pytest.mark.slow
def test_ray_gives_the_same_files(data: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init(num_cpus=3, include_dashboard=False)
    try:
        prepare_corpus(recipe_of(data, tmp_path / "out"), "ray")
    finally:
        ray.shutdown()
    assert contents(tmp_path / "out") == expected
