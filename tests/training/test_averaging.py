"""The mean of checkpoints is the mean of their weights, and loads as they do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, ModernBertForMaskedLM

from llm_jp_modernbert import LlmJpModernBertConfig, LlmJpModernBertForMaskedLM
from llm_jp_modernbert.training.run.averaging import average_checkpoints, latest_checkpoints


def model(seed: int, hidden: int = 16) -> LlmJpModernBertForMaskedLM:
    torch.manual_seed(seed)
    config = LlmJpModernBertConfig(
        vocab_size=40, hidden_size=hidden, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    return LlmJpModernBertForMaskedLM(config)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (5, 10, 100):
        model(step).save_pretrained(tmp_path / "run" / f"checkpoint-{step}", format="plain")
    (tmp_path / "run" / "checkpoint-5" / "trainer_state.json").write_text('{"global_step": 5}')
    return tmp_path / "run"


def test_the_mean_loads_in_plain_transformers(run: Path, tmp_path: Path) -> None:
    out = average_checkpoints(latest_checkpoints(run, 3), tmp_path / "mean")
    loaded = AutoModelForMaskedLM.from_pretrained(out)
    assert type(loaded) is ModernBertForMaskedLM
    parts = [dict(model(step).named_parameters()) for step in (5, 10, 100)]
    for name, weight in loaded.named_parameters():
        assert torch.allclose(weight, sum(part[name] for part in parts) / 3, rtol=1e-6, atol=1e-8), name
    steps = [entry["step"] for entry in json.loads((out / "averaged_from.json").read_text())]
    assert steps == [5, None, None]


def test_the_mean_of_native_checkpoints_has_their_code(tmp_path: Path) -> None:
    for step in (1, 2):
        model(step).save_pretrained(tmp_path / f"{step}", format="native")
    out = average_checkpoints([tmp_path / "1", tmp_path / "2"], tmp_path / "mean")
    code = {path.name: path.read_bytes() for path in (tmp_path / "2").glob("*.py")}
    assert code
    assert {path.name: path.read_bytes() for path in out.glob("*.py")} == code


def test_latest_is_by_number(run: Path) -> None:
    assert [path.name for path in latest_checkpoints(run, 2)] == ["checkpoint-10", "checkpoint-100"]
    with pytest.raises(ValueError, match="holds 3 checkpoints, not 4"):
        latest_checkpoints(run, 4)


def test_sharded_equals_whole(run: Path, tmp_path: Path) -> None:
    whole = average_checkpoints(latest_checkpoints(run, 2), tmp_path / "whole")
    for step in (10, 100):
        model(step).save_pretrained(tmp_path / "sharded" / f"{step}", format="plain", max_shard_size="2KB")
    assert len(list((tmp_path / "sharded" / "10").glob("*.safetensors"))) > 1
    sharded = average_checkpoints([tmp_path / "sharded" / "10", tmp_path / "sharded" / "100"], tmp_path / "mean")
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, sharded))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_mistakes(run: Path, tmp_path: Path) -> None:
    good = latest_checkpoints(run, 2)
    with pytest.raises(ValueError, match="at least two"):
        average_checkpoints(good[:1], tmp_path / "mean")
    with pytest.raises(ValueError, match=r"nowhere holds no config\.json"):
        average_checkpoints([*good, tmp_path / "nowhere"], tmp_path / "mean")
    with pytest.raises(ValueError, match=r"run is not empty"):
        average_checkpoints(good, run)
    model(0, hidden=32).save_pretrained(tmp_path / "wide", format="plain")
    with pytest.raises(ValueError, match=r"wide: .* is \(.*Average checkpoints of one model"):
        average_checkpoints([*good, tmp_path / "wide"], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".new")]
