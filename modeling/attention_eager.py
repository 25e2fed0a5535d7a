"""The reference backend: the whole softmax over the user's `(batch, length)` grid, slow and obvious.

Every other backend is tested against this one. It alone returns attention weights.
"""

from __future__ import annotations

import torch

from .layout import PackedLayout


def mask(layout: PackedLayout, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """`(batch, 1, length, length)` bool: True where the row's token may attend to the column's."""
    # Cells without a token belong to document -1, which attends to nothing.
    documents = layout.repad(layout.document_ids + 1).view(layout.grid) - 1
    offsets = layout.repad(layout.offsets).view(layout.grid)
    allowed = (documents[:, :, None] == documents[:, None, :]) & (documents[:, :, None] >= 0)
    if window is not None:
        allowed &= (offsets[:, :, None] - offsets[:, None, :]).abs() <= window
    return allowed[:, None]


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    mask: torch.Tensor,
    window: int | None,
    scale: float,
    dropout: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention weights are `(batch, heads, length, length)`; see `attention` for the arguments."""
    query, key, value = (_to_grid(tensor, layout) for tensor in (query, key, value))
    scores = query @ key.transpose(-1, -2) * scale
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    # Rows without a token would be uniform; the product makes them zero.
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype) * mask
    weights = torch.nn.functional.dropout(weights, dropout)
    out = (weights @ value).transpose(1, 2)
    return layout.unpad(out.reshape(*layout.shape, *out.shape[2:])), weights


def _to_grid(tensor: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
    """`(total_tokens, heads, head_dim)` → `(batch, heads, length, head_dim)`."""
    return layout.repad(tensor).view(*layout.grid, *tensor.shape[1:]).transpose(1, 2)
