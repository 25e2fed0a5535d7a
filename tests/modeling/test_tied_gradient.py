"""The gradient of the tied matrix is that of transformers' model, whichever way its two halves come together."""

from __future__ import annotations

import pytest
import torch
from peer import OUTPUT_TOLERANCE, assert_close, documents, pair
from torch import nn

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.modeling import losses
from llm_jp_modernbert.modeling.tied_gradient import shares_gradient


def batch() -> dict[str, torch.Tensor]:
    ids = torch.stack(documents(130, 130))
    ids[:, 5] = 0  # the padding token has no gradient from its look-ups
    return {"input_ids": ids, "labels": ids.where(torch.arange(130) % 3 == 0, -100)}


def lookup(model: LlmJpModernBertForMaskedLM) -> nn.Embedding:
    return model.get_input_embeddings()


def test_equals_transformers_and_is_the_losss_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own, peer = pair("ForMaskedLM")
    made, places = [], set()
    allocate = losses._matrix_like

    def allocated(weight: torch.Tensor) -> torch.Tensor:
        gradient = allocate(weight)
        made.append(gradient.data_ptr())  # nothing but the place: what is held elsewhere is not added to
        return gradient

    monkeypatch.setattr(losses, "_matrix_like", allocated)
    for _ in range(2):  # two batches add up
        own(**batch()).loss.backward()
        peer(**batch()).loss.backward()
        places.add(lookup(own).weight.grad.data_ptr())
        assert not lookup(own).weight.grad.is_sparse
        assert_close(lookup(own).weight.grad, peer.get_input_embeddings().weight.grad, OUTPUT_TOLERANCE)
    assert places == {made[0]}


def test_hooks_and_autograd_see_the_whole_gradient() -> None:
    own, peer = pair("ForMaskedLM")
    peer(**batch()).loss.backward()
    expected = peer.get_input_embeddings().weight.grad
    (found,) = torch.autograd.grad(own(**batch()).loss, [lookup(own).weight])
    assert_close(found, expected, OUTPUT_TOLERANCE)
    seen = []
    lookup(own).weight.register_hook(seen.append)
    own(**batch()).loss.backward()
    (found,) = seen
    assert_close(found, expected, OUTPUT_TOLERANCE)


def test_a_second_use_of_the_matrix_adds_to_it() -> None:
    own, peer = pair("ForMaskedLM")
    for model in (own, peer):
        weight = model.get_input_embeddings().weight
        (model(**batch()).loss + weight.square().sum()).backward()
    assert_close(lookup(own).weight.grad, peer.get_input_embeddings().weight.grad, OUTPUT_TOLERANCE)


@pytest.mark.parametrize("part", ["model", "decoder"])
def test_untied_matrices_have_dense_gradients(part: str) -> None:
    own, _ = pair("ForMaskedLM")
    own.decoder.weight = nn.Parameter(own.decoder.weight.detach().clone())
    own(**batch()).loss.backward()
    weight = lookup(own).weight if part == "model" else own.decoder.weight
    assert weight.grad.layout == torch.strided


def test_without_the_loss_look_ups_have_dense_gradients() -> None:
    own, _ = pair("ForMaskedLM")
    own(input_ids=batch()["input_ids"]).logits.sum().backward()
    assert lookup(own).weight.grad.layout == torch.strided


@pytest.mark.parametrize("after_the_loss", [False, True])
def test_a_backward_pass_that_leaves_the_loss_out_gives_a_dense_gradient(after_the_loss: bool) -> None:
    own, peer = pair("ForMaskedLM")
    found = []
    for model in (own, peer):
        outputs = model(**batch(), output_hidden_states=True)
        if after_the_loss:
            outputs.loss.backward(retain_graph=True)
            model.zero_grad()
        outputs.hidden_states[-1].square().sum().backward()
        found.append(model.get_input_embeddings().weight.grad)
    assert found[0].layout == torch.strided
    assert_close(found[0] / found[1].abs().max(), found[1] / found[1].abs().max(), OUTPUT_TOLERANCE)


def test_gradients_that_are_to_be_differentiated_are_dense() -> None:
    own, peer = pair("ForMaskedLM", "eager", "eager")
    found = []
    for model in (own, peer):
        weights = [model.get_input_embeddings().weight]
        found += torch.autograd.grad(model(**batch()).loss, weights, create_graph=True)
    assert_close(found[0].detach(), found[1].detach(), OUTPUT_TOLERANCE)


@pytest.mark.parametrize("way", ["frozen", "no_grad", "own_module", "hook", "max_norm", "other_matrix"])
def test_where_nothing_is_shared(way: str) -> None:
    own, _ = pair("ForMaskedLM")
    embedding, weight = lookup(own), own.decoder.weight
    assert shares_gradient(embedding, weight)
    if way == "own_module":
        embedding = type("Embedding", (nn.Embedding,), {})(*weight.shape, _weight=weight)
    elif way == "hook":
        embedding.register_forward_hook(lambda module, inputs, output: 2 * output)
    elif way == "max_norm":
        embedding.max_norm = 1.0
    elif way == "other_matrix":
        weight = nn.Parameter(weight.detach().clone())
    weight.requires_grad_(way != "frozen")
    with torch.set_grad_enabled(way != "no_grad"):
        assert not shares_gradient(embedding, weight)


def test_hooks_on_the_embeddings_are_called() -> None:
    own, peer = pair("ForMaskedLM")
    for model in (own, peer):
        model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: 2 * output)
    assert_close(own(**batch()).loss, peer(**batch()).loss, OUTPUT_TOLERANCE)
