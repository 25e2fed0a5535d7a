"""The GPU benchmark, rehearsed on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.cases import encoder, gpu
from benchmarks.cases.training_step import PEER, SORTED, SPARSE, random_documents
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


def test_parts_end_when_their_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.Run, "out_of_time", True)
    parts = rehearse(tmp_path, "--parts", "attention,training,batch")
    rows = [row for part in parts.values() for row in part["rows"]]
    assert len(rows) > 3
    assert all("skipped" in row for row in rows)


def test_failing_part_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: gpu.Run) -> Any:
        raise RuntimeError("no such kernel")
        yield

    monkeypatch.setitem(gpu.PARTS, "profile", (fail, 1))
    parts = rehearse(tmp_path, "--parts", "profile,head")
    assert parts["profile"]["rows"] == [{"failed": "RuntimeError: no such kernel"}]
    assert parts["head"]["rows"][0]["ms"] > 0
