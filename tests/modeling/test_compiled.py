"""A model whose layers are compiled, by the real compiler, against transformers."""

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

# With and without documents that are longer than the window, one or several, of one length or not: each such form of a
# batch is compiled once.
FORMS = ((150, 1, 40), (7,) * 20, (300,), (300, 300, 300))
BATCHES = (*FORMS, (64, 65, 200, 3), (500,), (9,) * 30, (130, 130))


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Nothing compiled before, and nothing left behind."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@needs_compiler
def test_compiled_layers_equal_transformers() -> None:
    """Loss and gradients, in batches of other lengths, which compile nothing."""
    own, peer = pair("ForMaskedLM", "sdpa", num_hidden_layers=2)
    own.compile_layers()
    graphs = []
    for lengths in BATCHES:
        rows = documents(*lengths)
        ids, mask = padded(rows), padding_mask(rows)
        # Transformers reads them padded, and takes the mean over all tokens as well.
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


def test_a_model_that_its_user_compiles_equals_transformers() -> None:
    own, peer = pair("ForMaskedLM", "sdpa", num_hidden_layers=2)
    compiled = torch.compile(own.train(), backend="aot_eager")
    peer.train()
    for length in (70, 90):
        ids = torch.stack(documents(length, length))
        labels = ids.where(torch.arange(length) % 3 == 0, -100)
        found, expected = compiled(input_ids=ids, labels=labels).loss, peer(input_ids=ids, labels=labels).loss
        assert_close(found, expected, LOSS_TOLERANCE)
        own.zero_grad()
        peer.zero_grad()
        found.backward()
        expected.backward()
        assert_gradients_close(own, peer)


@pytest.mark.parametrize("training", [True, False])
def test_sdpa_is_compiled_for_no_lengths(training: bool) -> None:
    """Only attention over documents of different lengths stays outside of the graphs."""
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
def test_a_compiled_layer_keeps_products_alone() -> None:
    """Not what is between them: the activation, of half the width, is computed again."""
    own, _ = pair("ForMaskedLM", "sdpa", num_hidden_layers=1)
    width = own.config.intermediate_size
    ids = documents(150)[0][None]
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append((tensor.shape[0], tensor.numel()))
        return tensor

    for is_compiled in (False, True):
        if is_compiled:
            own.compile_layers()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            own.train()(input_ids=ids, labels=ids)
        assert (150, 2 * width * 150) in kept or not is_compiled
        assert ((150, width * 150) in kept) == (not is_compiled)


@needs_compiler
@pytest.mark.parametrize(("dropout", "checkpointing"), [(0.5, False), (0.0, True)])
@inductor.patch(fallback_random=True)
def test_what_is_computed_again_is_what_was(dropout: float, checkpointing: bool) -> None:
    """With the same random numbers, and within layers that are computed again as a whole."""
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
    eager, compiled = gradients
    for name, gradient in eager.items():
        assert_close(compiled[name], gradient)


def test_saving_a_compiled_model(tmp_path: Path) -> None:
    """Weights keep their names."""
    own, _ = pair("ForMaskedLM", "sdpa")
    names = set(own.state_dict())
    own.compile_layers(backend="eager")
    own.save_pretrained(tmp_path)
    assert set(own.state_dict()) == names
    again = type(own).from_pretrained(tmp_path)
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in again.state_dict().items())
