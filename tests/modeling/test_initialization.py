"""New weights are distributed like those of transformers' ModernBERT, and loaded weights are not changed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peer import HEAD_NAMES, own_class, pair, peer_class, settings
from transformers import ModernBertConfig

from llm_jp_modernbert import LlmJpModernBertConfig


def fresh(head: str, **changes: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the states of our and transformers' new models, large enough to estimate the moments of the weights."""
    values = settings(hidden_size=128, intermediate_size=192, vocab_size=2000, num_labels=16, **changes)
    torch.manual_seed(0)
    own = own_class(head)(LlmJpModernBertConfig(**values)).state_dict()
    return own, peer_class(head)(ModernBertConfig(**values)).state_dict()


@pytest.mark.parametrize("cutoff", [2.0, 3.0])
@pytest.mark.parametrize("head", HEAD_NAMES)
def test_moments_equal_transformers(head: str, cutoff: float) -> None:
    """Output projections are smaller by sqrt(2 · layers), and no weight exceeds the cutoff."""
    own, peer = fresh(head, initializer_cutoff_factor=cutoff, norm_bias=True, attention_bias=True, mlp_bias=True)
    assert own.keys() == peer.keys()
    for name, expected in peer.items():
        weight = own[name]
        if expected.dim() == 1:
            assert torch.equal(weight, expected), name
            continue
        # Five standard errors of a standard deviation and of a mean over n values, for both models.
        std, noise = float(expected.std()), 5 * math.sqrt(2.0 / expected.numel())
        assert abs(float(weight.std()) - std) <= noise * std, f"{name}: {float(weight.std()):.4f}, not {std:.4f}"
        assert abs(float(weight.mean() - expected.mean())) <= noise * std, name
        # The largest of many weights is just below the cutoff.
        if expected.numel() > 10_000:
            assert abs(float(weight.abs().max() / expected.abs().max()) - 1) < (0.02 if cutoff == 2.0 else 0.1), name


def test_same_seed_gives_same_weights() -> None:
    first, second = fresh("ForMaskedLM")[0], fresh("ForMaskedLM")[0]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_loading_initializes_missing_weights_only(tmp_path: Path) -> None:
    """The missing head is new, all other weights are the checkpoint's."""
    own, _ = pair("Model")
    own.save_pretrained(tmp_path)
    loaded = own_class("ForSequenceClassification").from_pretrained(tmp_path, num_labels=16)
    for name, expected in own.state_dict().items():
        assert torch.equal(loaded.state_dict()[f"model.{name}"], expected), name
    std = float(loaded.classifier.weight.detach().std())
    # Truncation at two standard deviations reduces the standard deviation to 0.88 of it.
    assert abs(std - 0.88 * loaded.config.hidden_size**-0.5) < 0.1 * loaded.config.hidden_size**-0.5
    assert loaded.classifier.bias.eq(0).all()
    assert float(loaded.head.dense.weight.detach().abs().max()) <= 2.0 * 0.02 / math.sqrt(2 * 4)
