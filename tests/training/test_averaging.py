"""An average holds the mean of the checkpoints' weights and loads in the same ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_config
from transformers import AutoModelForMaskedLM, ModernBertForMaskedLM

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.training.run.averaging import average_checkpoints
from llm_jp_modernbert.training.run.checkpoints import checkpoints


def model(seed: int, hidden: int = 16) -> LlmJpModernBertForMaskedLM:
    torch.manual_seed(seed)
    return LlmJpModernBertForMaskedLM(tiny_config(vocab_size=40, hidden_size=hidden))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (5, 10, 100):
        model(step).save_pretrained(tmp_path / "run" / f"checkpoint-{step}", format="plain")
    (tmp_path / "run" / "checkpoint-5" / "trainer_state.json").write_text('{"global_step": 5}')
    return tmp_path / "run"


def test_average_loads_in_plain_transformers(run: Path, tmp_path: Path) -> None:
    out = average_checkpoints(checkpoints(run, last=3), tmp_path / "mean")
    loaded = AutoModelForMaskedLM.from_pretrained(out)
    assert type(loaded) is ModernBertForMaskedLM
    parts = [dict(model(step).named_parameters()) for step in (5, 10, 100)]
    for name, weight in loaded.named_parameters():
        assert torch.allclose(weight, sum(part[name] for part in parts) / 3, rtol=1e-6, atol=1e-8), name
    steps = [entry["step"] for entry in json.loads((out / "averaged_from.json").read_text())]
    assert steps == [5, None, None]


def test_average_of_native_checkpoints_contains_their_code(tmp_path: Path) -> None:
    for step in (1, 2):
        model(step).save_pretrained(tmp_path / f"{step}", format="native")
    out = average_checkpoints([tmp_path / "1", tmp_path / "2"], tmp_path / "mean")
    code = {path.name: path.read_bytes() for path in (tmp_path / "2").glob("*.py")}
    assert code
    assert {path.name: path.read_bytes() for path in out.glob("*.py")} == code


def test_latest_checkpoints_are_sorted_by_step(run: Path) -> None:
    assert [path.name for path in checkpoints(run, last=2)] == ["checkpoint-10", "checkpoint-100"]
    with pytest.raises(ValueError, match="holds 3 checkpoints, not 4"):
        checkpoints(run, last=4)


def test_only_directories_named_by_a_step_are_checkpoints(run: Path) -> None:
    for name in ("checkpoint-x", "checkpoint-step-7", "checkpoint-007", "damaged-checkpoint-9"):
        (run / name).mkdir()
    (run / "checkpoint-8").write_text("a file")
    assert [path.name for path in checkpoints(run)] == ["checkpoint-5", "checkpoint-10", "checkpoint-100"]


def test_sharded_weights_give_the_same_average(run: Path, tmp_path: Path) -> None:
    whole = average_checkpoints(checkpoints(run, last=2), tmp_path / "whole")
    for step in (10, 100):
        model(step).save_pretrained(tmp_path / "sharded" / f"{step}", format="plain", max_shard_size="2KB")
    assert len(list((tmp_path / "sharded" / "10").glob("*.safetensors"))) > 1
    sharded = average_checkpoints([tmp_path / "sharded" / "10", tmp_path / "sharded" / "100"], tmp_path / "mean")
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, sharded))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_invalid_inputs_raise_and_write_nothing(run: Path, tmp_path: Path) -> None:
    good = checkpoints(run, last=2)
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
