"""Models with compiled layers equal transformers and do not recompile for other document lengths."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peer import (
    LOSS_TOLERANCE,
    assert_close,
    assert_gradients_close,
    boundaries,
    documents,
    padded,
    padding_mask,
    pair,
)
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")

# Each form of a batch is compiled once: documents longer than the window or not, one or several, equal lengths or not.
FORMS = ((150, 1, 40), (7,) * 20, (300,), (300, 300, 300))
BATCHES = (*FORMS, (64, 65, 200, 3), (500,), (9,) * 30, (130, 130))


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Reset the compiler before and after each test."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@needs_compiler
def test_compiled_layers_equal_transformers() -> None:
    """Loss and gradients are equal, and batches of other lengths do not recompile."""
    own, peer = pair("ForMaskedLM", "sdpa", num_hidden_layers=2)
    own.compile_layers()
    graphs = []
    for lengths in BATCHES:
        rows = documents(*lengths)
        ids, mask = padded(rows), padding_mask(rows)
        # transformers reads padded rows; its loss is also the mean over all tokens.
        loss = own.train()(
            input_ids=torch.cat(rows)[None], cu_seqlens=boundaries(rows), labels=torch.cat(rows)[None]
        ).loss
        expected = peer.train()(input_ids=ids, attention_mask=mask, labels=ids.where(mask.bool(), -100)).loss
        assert_close(loss, expected, LOSS_TOLERANCE)
        own.zero_grad()
        peer.zero_grad()
        loss.backward()
        expected.backward()
        assert_gradients_close(own, peer)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert set(graphs[len(FORMS) :]) == {graphs[len(FORMS) - 1]}


@pytest.mark.slow
def test_whole_model_compiled_by_user_equals_transformers() -> None:
    own, peer = pair("ForMaskedLM", "sdpa", num_hidden_layers=2)
    compiled = torch.compile(own.train(), backend="aot_eager")
    peer.train()
    for length in (70, 90):
        ids = torch.stack(documents(length, length))
        labels = ids.where(torch.arange(length) % 3 == 0, -100)
        loss, expected = compiled(input_ids=ids, labels=labels).loss, peer(input_ids=ids, labels=labels).loss
        assert_close(loss, expected, LOSS_TOLERANCE)
        own.zero_grad()
        peer.zero_grad()
        loss.backward()
        expected.backward()
        assert_gradients_close(own, peer)


@pytest.mark.parametrize("training", [pytest.param(True, marks=pytest.mark.slow), False])
def test_other_lengths_do_not_recompile_sdpa(training: bool) -> None:
    """Only attention over documents of different lengths is outside of the graphs."""
    own, peer = pair("ForMaskedLM", "sdpa", num_hidden_layers=4)
    counter = CompileCounter()
    own.compile_layers(backend=counter)
    counts = []
    for lengths in BATCHES:
        rows = documents(*lengths)
        with torch.set_grad_enabled(training):
            logits = own.train(training)(input_ids=torch.cat(rows)[None], cu_seqlens=boundaries(rows)).logits
        with torch.no_grad():
            expected = torch.cat([peer.eval()(input_ids=row[None]).logits[0] for row in rows])
        assert_close(logits[0], expected)
        counts.append(counter.frame_count)
    assert counts[0] > 0
    assert set(counts[len(FORMS) :]) == {counts[len(FORMS) - 1]}


@needs_compiler
@pytest.mark.parametrize(("dropout", "checkpointing"), [pytest.param(0.5, False, marks=pytest.mark.slow), (0.0, True)])
@inductor.patch(fallback_random=True)
def test_compiled_gradients_equal_uncompiled(dropout: float, checkpointing: bool) -> None:
    """With the same random numbers, and with gradient checkpointing."""
    own, _ = pair("ForMaskedLM", "sdpa", num_hidden_layers=2, mlp_dropout=dropout)
    if checkpointing:
        own.gradient_checkpointing_enable()
    ids = documents(150)[0][None]
    gradients = []
    for is_compiled in (False, True):
        if is_compiled:
            own.compile_layers()
        own.zero_grad()
        torch.manual_seed(0)
        own.train()(input_ids=ids, labels=ids).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in own.named_parameters()})
    uncompiled, compiled = gradients
    for name, gradient in uncompiled.items():
        assert_close(compiled[name], gradient)


def test_saved_compiled_model_keeps_parameter_names(tmp_path: Path) -> None:
    own, _ = pair("ForMaskedLM", "sdpa")
    names = set(own.state_dict())
    own.compile_layers(backend="eager")
    own.save_pretrained(tmp_path)
    assert set(own.state_dict()) == names
    loaded = type(own).from_pretrained(tmp_path)
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in loaded.state_dict().items())
