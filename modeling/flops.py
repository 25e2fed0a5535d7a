"""Floating-point operations of the model for a packed batch.

Matrix products are counted, with a multiplication and an addition as two operations: the linear layers, and the scores
and weighted sums of attention over the visible pairs of tokens. Embeddings, norms, activations, RoPE and softmax are
not counted; together they are below 1 % in models of usual width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Dense peaks without sparsity, in operations per second, from the vendors' data sheets. The first name that is
# contained in the device's name applies, so longer names come first.
_HALF, _FULL = ("bfloat16", "float16"), ("float32",)
_PEAKS: tuple[tuple[str, dict[tuple[str, ...], float]], ...] = (
    ("B200", {_HALF: 2250e12}),
    ("GH200", {_HALF: 989e12, _FULL: 67e12}),
    ("H200", {_HALF: 989e12, _FULL: 67e12}),
    ("H100 PCIe", {_HALF: 756e12, _FULL: 51e12}),
    ("H100 NVL", {_HALF: 835e12, _FULL: 60e12}),
    ("H100", {_HALF: 989e12, _FULL: 67e12}),
    ("A100", {_HALF: 312e12, _FULL: 19.5e12}),
    ("L40S", {_HALF: 362e12, _FULL: 91.6e12}),
    ("A10G", {_HALF: 70e12, _FULL: 35e12}),
    ("RTX 4090", {_HALF: 165e12, _FULL: 82.6e12}),
    ("V100", {("float16",): 125e12, _FULL: 15.7e12}),
)


def forward_flops(config: Any, lengths: Sequence[int] | npt.NDArray[np.integer], predicted_tokens: int) -> int:
    """Count the operations of a forward pass of the masked language model.

    Args:
        config: a ModernBERT configuration.
        lengths: `(documents,)` tokens of each document in the batch.
        predicted_tokens: number of tokens at which the vocabulary head runs.

    Example:
        >>> forward_flops(LlmJpModernBertConfig(), [1024], predicted_tokens=300)
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    tokens, hidden = int(sizes.sum()), config.hidden_size
    # Wqkv and Wo of the attention; Wi (input and gate) and Wo of the MLP.
    linear = hidden * 3 * hidden + hidden * hidden + hidden * 2 * config.intermediate_size
    linear += config.intermediate_size * hidden
    reach = config.local_attention // 2
    pairs = {"full_attention": _pairs(sizes), "sliding_attention": _pairs(sizes, reach)}
    # Each pair costs a product of queries and keys and one of weights and values, over the dimensions of all heads.
    attention = sum(2 * hidden * pairs[kind] for kind in config.layer_types[: config.num_hidden_layers])
    head = hidden * hidden + hidden * config.vocab_size
    return 2 * (config.num_hidden_layers * linear * tokens + attention + head * predicted_tokens)


def training_flops(config: Any, lengths: Sequence[int] | npt.NDArray[np.integer], predicted_tokens: int) -> int:
    """Count the operations of a forward and a backward pass.

    The backward pass has two products for each product of the forward pass, one for the gradient of each factor.
    Recomputation by gradient checkpointing is not counted: utilization is measured by useful work.

    Args:
        config: a ModernBERT configuration.
        lengths: `(documents,)` tokens of each document in the batch.
        predicted_tokens: number of tokens at which the vocabulary head runs.
    """
    return 3 * forward_flops(config, lengths, predicted_tokens)


def peak_flops(device: str, dtype: str) -> float | None:
    """Return the peak operations per second of a GPU, or None if unknown.

    Args:
        device: name of the GPU, as returned by `torch.cuda.get_device_name`.
        dtype: `"bfloat16"`, `"float16"` or `"float32"`.
    """
    for name, peaks in _PEAKS:
        if name.lower() in device.lower():
            return next((peak for dtypes, peak in peaks.items() if dtype in dtypes), None)
    return None


def _pairs(sizes: npt.NDArray[np.int64], reach: int | None = None) -> int:
    """Count ordered pairs of tokens of a document at most `reach` apart, including a token with itself."""
    if reach is None:
        return int((sizes**2).sum())
    near = np.minimum(reach, np.maximum(sizes - 1, 0))
    # size pairs at distance 0, and 2 (size − d) at each distance d from 1 to `near`.
    return int((sizes * (1 + 2 * near) - near * (near + 1)).sum())
