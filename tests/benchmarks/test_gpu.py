"""The GPU benchmark, rehearsed on a CPU."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.cases import encoder, gpu, gpu_kernels
from benchmarks.cases.training_step import PEER, SORTED, SPARSE, random_documents
from benchmarks.gpu_process import Worker
from benchmarks.gpu_run import Row, Run
from benchmarks.measure import OURS, measure
from benchmarks.models import Models
from llm_jp_modernbert.modeling.flops import forward_flops


@pytest.fixture(scope="module")
def models() -> Models:
    # Few tokens: without instructions for bfloat16, a large vocabulary takes minutes.
    return Models("nano", 1000, device="cpu")


def test_random_documents_have_the_requested_tokens_and_maximum_length() -> None:
    for seed in range(5):
        batch = random_documents(1_000, 5_000, 256, seed)
        assert sum(map(len, batch.ids)) == sum(map(len, batch.labels)) == 5_000
        assert max(map(len, batch.ids)) <= 256
        predicted = torch.cat(batch.labels) != -100
        assert predicted.float().mean() == pytest.approx(0.3, abs=0.03)
        assert torch.equal(torch.cat(batch.labels)[predicted], torch.cat(batch.ids)[predicted])


@pytest.mark.slow
def test_all_candidates_train_on_the_same_tokens(models: Models) -> None:
    case = gpu.packed_training(models, 64, 500, 256, compiled=False)
    assert case.settings["tokens"] == 500
    measurement = measure(case, turns=1)
    assert set(measurement.rates) == {PEER, SPARSE, SORTED, OURS}
    assert all(rate > 0 for rates in measurement.rates.values() for rate in rates)


def test_operations_per_token_are_those_of_the_encoder(models: Models) -> None:
    measurement = measure(encoder.one_length(models, "bfloat16", 2, 64, compiled=False), turns=1)
    assert set(measurement.rates) == {encoder.PEER, OURS}
    assert measurement.operations[OURS] == forward_flops(models.config, [64, 64], 0) / 128


def rehearse(folder: Path, *arguments: str) -> dict[str, Any]:
    options = ["--device", "cpu", "--shape", "nano", "--no-compiled", "--out", str(folder), *arguments]
    result = CliRunner().invoke(app, ["gpu", *options])
    assert result.exit_code == 0, result.output
    parts: dict[str, Any] = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))["parts"]
    return parts


@pytest.mark.slow
def test_every_part_runs_and_explains_what_it_skips(tmp_path: Path) -> None:
    parts = rehearse(tmp_path)
    assert list(parts) == list(gpu.PARTS)
    rows = {name: part["rows"] for name, part in parts.items()}
    for name in parts:
        assert not any("failed" in row for row in rows[name])
        assert any("skipped" not in row for row in rows[name])
    (profile,) = rows["profile"]
    assert sum(profile["ms by group"].values()) > 0
    assert profile["ms by group"].keys() >= {"matrix products", "attention", "optimizer"}
    kernels = {row["kernel"]: row for row in rows["attention"]}
    assert kernels["sdpa"]["forward ms"] > 0
    assert "flash-attn" in kernels["flash_attention_2"]["skipped"]
    assert {row["candidate"] for row in rows["training"]} == {PEER, SPARSE, SORTED, OURS}
    assert [row["tokens"] for row in rows["batch"]] == [128, 128]
    assert (tmp_path / "gpu.png").stat().st_size > 10_000


def test_parts_end_when_their_time_is_over() -> None:
    run = Run("nano", "cpu", compiled=False)
    run.deadline = 0.0
    rows = [row for name in ("attention", "training", "batch") for row in gpu.PARTS[name][0](run)]
    assert len(rows) > 3
    assert all("skipped" in row for row in rows)


def fail(run: Run) -> Iterator[Row]:
    yield {"kernel": "sdpa", "ms": 1.0}
    raise RuntimeError("no such kernel")


def crash(run: Run) -> Iterator[Row]:
    yield {"kernel": "varlen", "ms": 1.0}
    os.abort()


def hang(run: Run) -> Iterator[Row]:
    yield {"kernel": "flash", "ms": 1.0}
    time.sleep(600)


def lose_the_device(run: Run) -> Iterator[Row]:
    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    yield {"kernel": "flex", "ms": 1.0}
    run.synchronize = fail  # type: ignore[method-assign]
    run.synchronize()


@pytest.mark.slow
def test_no_part_ends_the_others() -> None:
    rows = {}
    with Worker("nano", "cpu", compiled=False) as worker:
        # The second part begins in a process that has started, so it need not wait for that.
        for part in (fail, hang, crash, lose_the_device):
            now = time.perf_counter()
            rows[part.__name__] = list(worker.rows(part, now, now + (15 if part is hang else 600)))
    assert [row["kernel"] for (row, *_) in rows.values()] == ["sdpa", "flash", "varlen", "flex"]
    assert {name: [row["failed"] for row in failed] for name, (_, *failed) in rows.items()} == {
        "fail": ["RuntimeError: no such kernel"],
        "hang": ["out of time"],
        "crash": ["the process ended with exit code -6"],
        "lose_the_device": [
            "RuntimeError: CUDA error: an illegal memory access was encountered",
            "the process ended with exit code 1",
        ],
    }


def test_annotated_regions_are_not_counted_as_kernels() -> None:
    """A region and its kernels are events of the same time on a GPU."""
    names = ("Optimizer.step#AdamW.step", "multi_tensor_apply_kernel", "cudaStreamSynchronize")
    events = [FunctionEventAvg() for _ in names]
    for event, name in zip(events, names, strict=True):
        event.key, event.count, event.self_device_time_total = name, 4, 4000
        event.device_type = DeviceType.CPU if name.startswith("cuda") else DeviceType.CUDA
        event.is_user_annotation = name.startswith("Optimizer")
    milliseconds, synchronizations = gpu_kernels.profiled(events, "cuda", 2)
    assert milliseconds == {"multi_tensor_apply_kernel": 2.0}
    assert synchronizations == 2
