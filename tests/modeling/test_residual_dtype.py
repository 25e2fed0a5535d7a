"""Hidden states in autocast's dtype: results close to those of float32, less memory, no effect without autocast."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peer import boundaries, documents, gradients, pair, run

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
forms = pytest.mark.parametrize(
    "form",
    ["plain", "checkpointing", "hidden_states", pytest.param("compiled", marks=[needs_compiler, pytest.mark.slow])],
)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Reset the compiler before and after each test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def packed_batch() -> dict[str, Any]:
    """Two documents of 90 and 40 tokens in a packed row; every third token has a label."""
    rows = documents(90, 40)
    ids = torch.cat(rows)[None]
    return {"input_ids": ids, "cu_seqlens": boundaries(rows), "labels": ids.where(torch.arange(130) % 3 == 0, -100)}


def models(head: str = "ForMaskedLM", **changes: Any) -> tuple[Any, Any]:
    """Build a model with hidden states in float32 and one with hidden states in autocast's dtype."""
    default, _ = pair(head, **changes)
    autocast, _ = pair(head, **changes)
    autocast.config.autocast_residual = True
    return default, autocast


@forms
def test_loss_and_gradients_are_close_to_those_of_float32(form: str) -> None:
    results = []
    for model in models():
        model.train()
        if form == "checkpointing":
            model.gradient_checkpointing_enable()
        if form == "compiled":
            model.compile_layers()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(**packed_batch(), output_hidden_states=form == "hidden_states")
        outputs.loss.backward()
        results.append((outputs.loss.item(), gradients(model)))
    (loss, expected), (own_loss, own) = results
    assert own_loss != loss
    assert abs(own_loss - loss) <= 0.01 * loss
    for name, gradient in expected.items():
        similarity = torch.cosine_similarity(own[name].flatten(), gradient.flatten(), 0)
        assert similarity > 0.99, f"{name}: {similarity:.4f}"


def test_hidden_states_have_dtype_of_autocast() -> None:
    ids = packed_batch()["input_ids"]
    for model, dtype in zip(models("Model"), (torch.float32, torch.bfloat16), strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = run(model, input_ids=ids, output_hidden_states=True)
        assert {states.dtype for states in outputs.hidden_states} == {dtype}


@pytest.mark.parametrize("training", [False, True])
def test_without_autocast_nothing_changes(training: bool) -> None:
    batch = packed_batch()
    default, autocast = (model.train(training)(**batch, return_logits=True) for model in models())
    assert torch.equal(default.loss, autocast.loss)
    assert torch.equal(default.logits, autocast.logits)


def test_fewer_bytes_are_kept_for_backward() -> None:
    """Per token and layer, the inputs of two norms take half of the memory."""
    kept = []
    for model in models("Model", hidden_size=128):
        storages: dict[int, int] = {}

        def record(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        inputs = {"input_ids": torch.stack(documents(512))}
        with (
            torch.autocast("cpu", torch.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(record, lambda kept: kept),
        ):
            states = model.train()(**inputs).last_hidden_state
        kept.append(sum(storages.values()))
        del states
    layers, hidden = 4, 128
    assert kept[0] - kept[1] >= 512 * (2 * layers - 1) * hidden * 2


def test_setting_is_not_saved(tmp_path: Path) -> None:
    _, model = models("Model")
    model.save_pretrained(tmp_path)
    assert "autocast_residual" not in (tmp_path / "config.json").read_text()
    assert not type(model).from_pretrained(tmp_path).config.autocast_residual
    assert type(model).from_pretrained(tmp_path, autocast_residual=True).config.autocast_residual
