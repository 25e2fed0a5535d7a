"""The number of operations equals PyTorch's own count and a count of token pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llm_jp_modernbert import LlmJpModernBertConfig, LlmJpModernBertForMaskedLM
from llm_jp_modernbert.modeling.flops import forward_flops, peak_flops, training_flops


def config(**changes: object) -> LlmJpModernBertConfig:
    settings = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 80, "num_attention_heads": 4}
    return LlmJpModernBertConfig(**{**settings, "num_hidden_layers": 3, "max_position_embeddings": 512, **changes})


def test_global_layers_equal_count_of_torch() -> None:
    """With global layers only, the eager backend computes exactly the counted pairs."""
    settings = config(layer_types=["full_attention"] * 3)
    model = LlmJpModernBertForMaskedLM._from_config(settings, attn_implementation="eager").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.randint(8, 500, (1, 300)))
    assert forward_flops(settings, [300], 300) == counter.get_total_flops()


@pytest.mark.parametrize("window", [8, 128])
def test_local_layers_count_pairs_within_window(window: int) -> None:
    settings = config(local_attention=window)
    lengths = [1, 2, 3, window // 2, window // 2 + 1, window, 400]
    everywhere = config(layer_types=["full_attention"] * 3)
    pairs = 0
    for length in lengths:
        positions = np.arange(length)
        pairs += int((abs(positions[:, None] - positions) > window // 2).sum())
    # Two of the three layers are local; each skips these pairs, which cost four operations per dimension.
    assert forward_flops(everywhere, lengths, 9) - forward_flops(settings, lengths, 9) == 2 * pairs * 4 * 64


def test_training_is_three_forwards_and_local_cost_is_linear() -> None:
    base = LlmJpModernBertConfig()
    assert training_flops(base, [10, 20], 5) == 3 * forward_flops(base, [10, 20], 5)
    local = config(layer_types=["sliding_attention"] * 3)
    costs = [forward_flops(local, [length], 0) for length in (1000, 2000, 3000)]
    assert costs[2] - costs[1] == costs[1] - costs[0]


def test_peak_flops_by_device_name() -> None:
    assert peak_flops("NVIDIA H200", "bfloat16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bfloat16") == 312e12
    assert peak_flops("NVIDIA H100 PCIe", "float16") == 756e12
    assert peak_flops("Some other device", "bfloat16") is None
