"""The interface of the attention backends.

Each module `attention_<name>.py` defines one `BACKEND`; `attention_backends` lists and chooses them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .layout import PackedLayout


@dataclass(frozen=True)
class AttentionInputs:
    """Inputs of one attention layer over a packed row of documents.

    Args:
        query, key, value: `(total_tokens, heads, head_dim)`, of the same dtype and device.
        layout: documents of the packed row; attention never crosses a document boundary.
        mask: return value of the backend's `build_mask`.
        window: a token attends to this many tokens on either side, inclusive; None in global layers.
        scale: factor applied to the scores, usually `head_dim ** -0.5`.
        dropout: probability of dropping an attention weight; 0 outside training.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    layout: PackedLayout
    mask: Any
    window: int | None
    scale: float
    dropout: float = 0.0


def _no_reason(*_arguments: Any) -> None:
    return None


@dataclass(frozen=True)
class AttentionBackend:
    """One implementation of attention over a packed row.

    Args:
        attend: computes one layer. Returns the output `(total_tokens, heads, head_dim)` and the attention weights
            `(batch, heads, length, length)`; only `eager` returns weights, all others None.
        build_mask: `build_mask(layout, window, dtype)` prepares the `mask` of `AttentionInputs`, once per forward pass
            and layer type.
        needs_lengths: whether it needs the document lengths on the host.
        missing_requirement: names the package that must be installed, or returns None.
        unsupported_reason: `unsupported_reason(device, dtype, head_dim, dropout)` says why the backend cannot compute
            such inputs, or returns None.
    """

    attend: Callable[[AttentionInputs], tuple[torch.Tensor, torch.Tensor | None]]
    build_mask: Callable[[PackedLayout, int | None, torch.dtype], Any]
    needs_lengths: bool = False
    missing_requirement: Callable[[], str | None] = _no_reason
    unsupported_reason: Callable[[torch.device, torch.dtype, int, float], str | None] = _no_reason
