"""An average holds the mean of the checkpoints' weights and loads in the same ways."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_config
from transformers import AutoModelForMaskedLM, ModernBertForMaskedLM

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock
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


def test_second_average_into_one_directory_is_refused(run: Path, tmp_path: Path) -> None:
    with lock(tmp_path / "mean", "average"), pytest.raises(UsageError, match="mean: another average is writing it"):
        average_checkpoints(checkpoints(run, last=2), tmp_path / "mean")


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'{"weight_map": 1}', b'{"weight_map": {"a": 1}}', b"[" * 9999]
)
def test_damaged_weights_and_odd_indices_are_named(run: Path, tmp_path: Path, content: bytes | None) -> None:
    sources = checkpoints(run, last=2)
    name = "model.safetensors" if content is None else "model.safetensors.index.json"
    (sources[0] / name).write_bytes(content or b"")
    (sources[0] / "trainer_state.json").write_bytes(content or b"")
    with pytest.raises(UsageError, match=name) as error:
        average_checkpoints(sources, tmp_path / "mean")
    assert "\n" not in str(error.value)


def test_full_disk_leaves_no_partial_average(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit on the size of files fails like a full disk."""
    out = tmp_path / "mean"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        f"sys.argv = ['llm-jp-modernbert', 'average', {str(run)!r}, '--last', '2', '--out', {str(out)!r}];"
        "from llm_jp_modernbert import cli; cli.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if not line.startswith("Warning")]
    assert len(errors) == 1, errors
    assert errors[0].startswith("Error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
