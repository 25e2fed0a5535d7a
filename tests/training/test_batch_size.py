"""The largest batch that fits is found by trial; here a model that raises as a full GPU does replaces the GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import runs
import torch

from llm_jp_modernbert import LlmJpModernBertForMaskedLM, cli
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.modeling.attention import AttentionInputs
from llm_jp_modernbert.modeling.attention_backends import BACKENDS
from llm_jp_modernbert.training.batch_size import find_batch_size, largest

Data = tuple[Path, Path]


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Limits a batch to seven rows; returns the tokens of every batch."""
    forward, tried = LlmJpModernBertForMaskedLM.forward, []

    def limited_forward(self: Any, input_ids: torch.Tensor, **inputs: Any) -> Any:
        tried.append(input_ids.numel())
        if input_ids.numel() > 7 * runs.SEQUENCE:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, input_ids, **inputs)

    monkeypatch.setattr(LlmJpModernBertForMaskedLM, "forward", limited_forward)
    return tried


@pytest.mark.parametrize("limit", range(16))
@pytest.mark.parametrize("most", [1, 2, 3, 12, 13])
def test_search_finds_the_largest_number(most: int, limit: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    assert largest(fits, most) == min(limit, most)
    assert len(tried) == len(set(tried)) <= 2 * most.bit_length()


def test_largest_batch_keeps_the_rows_of_a_step(data: Data, tmp_path: Path, limited: list[int]) -> None:
    keys = runs.recipe(*data, tmp_path / "run", gradient_accumulation_steps=4, per_device_train_batch_size=6)
    recipe = runs.load(keys)
    size = find_batch_size(recipe)
    assert (size.most_rows, size.rows, size.accumulation) == (7, 6, 4)
    assert size.keys(recipe) == {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 4}
    # The second batch of a step is computed with the gradients of the first.
    assert {tokens // runs.SEQUENCE for tokens in limited} == {1, 2, 4, 8, 6, 7}
    assert limited[:4] == [runs.SEQUENCE, runs.SEQUENCE, 2 * runs.SEQUENCE, 2 * runs.SEQUENCE]
    assert not (tmp_path / "run").exists()


def test_keys_are_those_of_the_recipe(data: Data, tmp_path: Path, limited: list[int]) -> None:
    keys = runs.recipe(*data, tmp_path / "run", gradient_accumulation_steps=2, tokens_per_batch=8 * runs.SEQUENCE)
    del keys["per_device_train_batch_size"]
    recipe = runs.load(keys)
    size = find_batch_size(recipe)
    assert size.keys(recipe) == {"tokens_per_batch": 4 * runs.SEQUENCE, "gradient_accumulation_steps": 4}


def test_trial_uses_the_attention_of_the_recipe(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited: list[int]
) -> None:
    used = []

    def attend(inputs: AttentionInputs) -> Any:
        used.append(inputs)
        return eager.attend(inputs)

    eager = BACKENDS["eager"]
    monkeypatch.setitem(BACKENDS, "eager", replace(eager, attend=attend))
    find_batch_size(runs.load(runs.recipe(*data, tmp_path / "run", attention="eager")))
    assert used


def test_row_that_does_not_fit_is_reported(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, **inputs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(LlmJpModernBertForMaskedLM, "forward", full)
    with pytest.raises(UsageError, match="sequence_length: a batch of one row of 64 tokens does not fit"):
        find_batch_size(runs.load(runs.recipe(*data, tmp_path / "run")))


def test_batch_without_enough_memory_names_the_remedy(data: Data, tmp_path: Path, limited: list[int]) -> None:
    keys = runs.recipe(*data, tmp_path / "run", per_device_train_batch_size=32)
    with pytest.raises(UsageError, match=r"per_device_train_batch_size: .*memory.*--find-batch-size"):
        runs.run(keys)


def test_cpu_is_refused(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = runs.recipe(*data, tmp_path / "run")
    overrides = [f"{key}={recipe[key]}" for key in ("train_data", "tokenizer", "output_dir", "use_cpu")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["llm-jp-modernbert", "pretrain", "nano", "--find-batch-size", *overrides])
        with pytest.raises(SystemExit):
            cli.main()
    assert "Error: --find-batch-size: needs a GPU." in capsys.readouterr().err
