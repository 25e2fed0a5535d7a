"""Reference backend: the full softmax over the padded `(batch, length)` grid, slow and readable.

Every other backend is tested against this one. Only this one returns attention weights.
"""

from __future__ import annotations

import torch

from .attention import AttentionBackend, AttentionInputs
from .layout import PackedLayout


def build_mask(layout: PackedLayout, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """Build `(batch, 1, length, length)` bool: True where the row's token attends to the column's."""
    # Cells without a token get document -1, which attends to nothing.
    documents = layout.repad(layout.document_ids + 1).view(layout.grid) - 1
    offsets = layout.repad(layout.offsets).view(layout.grid)
    allowed = (documents[:, :, None] == documents[:, None, :]) & (documents[:, :, None] >= 0)
    if window is not None:
        allowed &= (offsets[:, :, None] - offsets[:, None, :]).abs() <= window
    return allowed[:, None]


def attend(inputs: AttentionInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `softmax(query · keyᵀ · scale) · value` over all pairs that the mask allows."""
    layout = inputs.layout
    # (total_tokens, heads, head_dim) → (batch, heads, length, head_dim)
    query, key, value = (
        layout.repad(tensor).view(*layout.grid, *tensor.shape[1:]).transpose(1, 2)
        for tensor in (inputs.query, inputs.key, inputs.value)
    )
    scores = query @ key.transpose(-1, -2) * inputs.scale
    scores = scores.masked_fill(~inputs.mask, torch.finfo(scores.dtype).min)
    # The softmax of a row without a token is uniform; the product sets it to zero.
    # At least float32: in half precision the sum would be inaccurate.
    dtype = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=dtype).to(query.dtype) * inputs.mask
    weights = torch.nn.functional.dropout(weights, inputs.dropout)
    out = (weights @ value).transpose(1, 2)
    return layout.unpad(out.reshape(*layout.shape, *out.shape[2:])), weights


BACKEND = AttentionBackend(attend, build_mask)
