"""flex_attention with a block mask over (document, window): one compiled kernel, any dtype, with or without holes.

The mask is made from the documents of the blocks' first and last tokens, in O(blocks²) memory; torch's
`create_block_mask` would evaluate all n² pairs. Its function reads documents, distances and the window from tensors,
so that global and local layers, and batches of other lengths, share their compiled kernels.

Compiled on GPUs alone. On CPUs it has no backward, and the compiled kernel fails on lengths that change, so that there
the whole matrix of scores is computed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from .layout import PackedLayout

_BLOCK = 128
_NO_WINDOW = 2**31 - 1


def misfit(device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float) -> str | None:
    """Why it cannot compute such a batch, or None."""
    if dropout:
        return "it has no dropout of attention weights"
    if device.type == "cpu" and torch.is_grad_enabled():
        return "it has no backward on CPUs"
    if device.type != "cpu" and head_dim < 16:
        return f"it wants heads of at least 16 dimensions, not of {head_dim}"
    return None


# In a graph the number of blocks would be compiled in.
@torch.compiler.disable
def mask(layout: PackedLayout, window: int | None, dtype: torch.dtype) -> BlockMask:
    """Which blocks of tokens see which: wholly, partly or not at all; and the function that tells the pairs apart."""
    total_tokens = len(layout.document_ids)
    documents, offsets = layout.document_ids.int(), layout.offsets.int()
    limit = documents.new_full((), _NO_WINDOW if window is None else window)

    def is_seen(_batch: Any, _head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (documents[query] == documents[key]) & ((offsets[query] - offsets[key]).abs() <= limit)

    # What fills the last block up is a document of its own, so that this block is never seen wholly.
    blocks = pad(documents, (0, -total_tokens % _BLOCK), value=len(layout.cu_seqlens)).unflatten(0, (-1, _BLOCK))
    first, last = blocks[:, 0], blocks[:, -1]
    seen = (first[:, None] <= last) & (first <= last[:, None])
    if window is None:
        wholly = seen & (first == last)[:, None] & (first == last)
    else:
        # With holes offsets are further apart than places, so that some of these blocks see nothing after all.
        places = torch.arange(len(blocks), device=documents.device)
        seen &= ((places[:, None] - places).abs() - 1) * _BLOCK < window
        wholly = torch.zeros_like(seen)
    return BlockMask.from_kv_blocks(
        *_listed(seen & ~wholly), *_listed(wholly), _BLOCK, is_seen, seq_lengths=(total_tokens, total_tokens)
    )


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    mask: BlockMask,
    window: int | None,
    scale: float,
    dropout: float,
) -> tuple[torch.Tensor, None]:
    """See `attention` for the arguments, `misfit` for what they may be."""
    if len(query) == 0:
        return query, None
    on_its_own = query.device.type != "cpu" and not torch.compiler.is_compiling()
    kernel = _compiled() if on_its_own else flex_attention
    query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    out: Any = kernel(query, key, value, block_mask=mask, scale=scale)
    return out.squeeze(0).transpose(0, 1), None


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention)


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(blocks, blocks)` bool → how many each block sees, and their places first in a row, as `BlockMask` wants it."""
    counts = blocks.sum(-1, dtype=torch.int32)
    places = blocks.int().argsort(dim=-1, descending=True, stable=True).int()
    return counts[None, None], places[None, None]
