"""Training: dropout, gradient checkpointing, and the loss of modified decoders."""

from __future__ import annotations

import pytest
import torch
from peer import (
    BACKENDS,
    EXACT,
    LOSS_TOLERANCE,
    OUTPUT_TOLERANCE,
    assert_close,
    batch,
    documents,
    gradients,
    pair,
    run,
)
from torch import nn

backends = pytest.mark.parametrize("backend", BACKENDS)


@backends
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradient_checkpointing_equals_plain_gradients(backend: str, use_reentrant: bool, dropout: float) -> None:
    own, _ = pair("ForMaskedLM", backend, mlp_dropout=dropout, attention_dropout=dropout, embedding_dropout=dropout)
    own.train()
    inputs = batch()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            own.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        own.zero_grad()
        torch.manual_seed(0)
        own(**inputs, labels=labels).loss.backward()
        results.append(gradients(own))
    assert any(gradient.abs().max() > 0 for gradient in results[0].values())
    for name, gradient in results[0].items():
        assert_close(results[1][name], gradient, EXACT)


@pytest.mark.parametrize("setting", ["mlp_dropout", "attention_dropout"])
def test_gradient_checkpointing_with_dropout_in_long_rows(setting: str) -> None:
    own, _ = pair("ForMaskedLM", **{setting: 0.3})
    own.train()
    # Longer than the chunks of a forward pass without gradients, which a reentrant checkpoint runs first.
    ids = torch.stack(documents(1500))
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            own.gradient_checkpointing_enable({"use_reentrant": True})
        own.zero_grad()
        torch.manual_seed(0)
        own(input_ids=ids, labels=ids).loss.backward()
        results.append(gradients(own))
    for name, gradient in results[0].items():
        assert_close(results[1][name], gradient, EXACT)


class Doubled(nn.Linear):
    """A decoder that is more than its matrix, like one with an adapter."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(inputs)


@pytest.mark.parametrize("change", ["class", "hook", "method"])
def test_loss_of_modified_decoder_equals_transformers(change: str) -> None:
    own, peer = pair("ForMaskedLM")
    inputs = {"input_ids": torch.stack(documents(90, 90))}
    labels = inputs["input_ids"].where(torch.arange(90) % 3 == 0, -100)
    for model in (own, peer):
        decoder = model.decoder
        if change == "class":
            decoder.__class__ = Doubled
        elif change == "hook":
            decoder.register_forward_hook(lambda module, inputs, output: 2 * output)
        else:
            decoder.forward = lambda inputs, decoder=decoder: 2 * nn.Linear.forward(decoder, inputs)
        model(**inputs, labels=labels).loss.backward()
    assert_close(own(**inputs, labels=labels).loss, peer(**inputs, labels=labels).loss, LOSS_TOLERANCE)
    expected = gradients(peer)
    for name, gradient in gradients(own).items():
        assert_close(gradient, expected[name], OUTPUT_TOLERANCE)
    unlabelled = torch.full_like(labels, -100)
    assert own(**inputs, labels=unlabelled).loss.item() == 0.0
    half = own(**inputs, labels=labels, num_items_in_batch=120).loss
    assert_close(half, own(**inputs, labels=labels).loss / 2, LOSS_TOLERANCE)


@backends
@pytest.mark.parametrize("setting", ["embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"])
def test_dropout_is_active_in_training_only(backend: str, setting: str) -> None:
    own, peer = pair("ForSequenceClassification", backend, **{setting: 0.5})
    inputs = {"input_ids": torch.stack(documents(150))}
    first = run(own, **inputs).logits
    assert torch.equal(run(own, **inputs).logits, first)
    assert_close(first, run(peer, **inputs).logits)
    own.train()
    assert not torch.equal(run(own, **inputs).logits, run(own, **inputs).logits)


def test_dropout_of_attention_weights_keeps_their_mean() -> None:
    """The mean over many draws is the output without dropout: kept weights are scaled up, on every backend."""
    for backend in BACKENDS:
        own, _ = pair("Model", backend, attention_dropout=0.1)
        attention = own.layers[1].attn
        attention.out_drop.p = 0.0
        outputs: list[torch.Tensor] = []
        attention.register_forward_hook(lambda _module, _inputs, output, outputs=outputs: outputs.append(output[0]))
        ids = torch.stack(documents(20))
        expected = run(own, input_ids=ids) and outputs.pop()
        attention.train()
        for _ in range(300):
            run(own, input_ids=ids)
        error = torch.stack(outputs).mean(0) - expected
        spread = torch.stack(outputs).std(0)
        assert spread.max() > 0
        assert (error.abs() <= 6 * spread / 300**0.5 + EXACT).all()
