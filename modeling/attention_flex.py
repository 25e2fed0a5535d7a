"""flex_attention with a block mask of documents and windows: one compiled kernel for any dtype, with or without holes.

The block mask is computed from the documents of each block's first and last token in O(blocks²) memory; torch's
`create_block_mask` would evaluate all n² pairs. The mask function reads documents, offsets and the window from
tensors, so global and local layers and batches of different lengths share compiled kernels.

The kernel is compiled on GPUs only. On CPUs it has no backward pass and its compiled form fails when lengths change,
so there the full matrix of scores is computed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from .attention import AttentionBackend, AttentionInputs
from .layout import PackedLayout, is_in_graph

_BLOCK = 128
_NO_WINDOW = 2**31 - 1


def unsupported_reason(device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float) -> str | None:
    """Say why the kernel does not support such inputs, or return None."""
    if dropout:
        return "it does not support dropout of attention weights"
    if is_in_graph():
        return "its block mask depends on the lengths of documents, which a graph would keep"
    if device.type == "cpu" and torch.is_grad_enabled():
        return "it has no backward pass on CPUs"
    if device.type != "cpu" and head_dim < 16:
        return f"head_dim must be at least 16, not {head_dim}"
    return None


# A graph would contain the number of blocks as a constant.
@torch.compiler.disable
def build_mask(layout: PackedLayout, window: int | None, dtype: torch.dtype) -> BlockMask:
    """List the partly and the fully visible blocks of keys for each block of queries, and define the mask function."""
    total_tokens = len(layout.document_ids)
    documents, offsets = layout.document_ids.int(), layout.offsets.int()
    limit = documents.new_full((), _NO_WINDOW if window is None else window)

    def is_visible(_batch: Any, _head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (documents[query] == documents[key]) & ((offsets[query] - offsets[key]).abs() <= limit)

    # The padding of the last block is a separate document, so that this block is never fully visible.
    blocks = pad(documents, (0, -total_tokens % _BLOCK), value=len(layout.cu_seqlens)).unflatten(0, (-1, _BLOCK))
    first, last = blocks[:, 0], blocks[:, -1]
    visible = (first[:, None] <= last) & (first <= last[:, None])
    if window is None:
        fully_visible = visible & (first == last)[:, None] & (first == last)
    else:
        # With holes, offsets differ by more than indices, so some of these blocks turn out to be invisible.
        indices = torch.arange(len(blocks), device=documents.device)
        visible &= ((indices[:, None] - indices).abs() - 1) * _BLOCK < window
        fully_visible = torch.zeros_like(visible)
    return BlockMask.from_kv_blocks(
        *_block_lists(visible & ~fully_visible),
        *_block_lists(fully_visible),
        _BLOCK,
        is_visible,
        seq_lengths=(total_tokens, total_tokens),
    )


def attend(inputs: AttentionInputs) -> tuple[torch.Tensor, None]:
    """Compute attention with `torch.nn.attention.flex_attention.flex_attention`."""
    if len(inputs.query) == 0:
        return inputs.query, None
    compile_here = inputs.query.device.type != "cpu" and not torch.compiler.is_compiling()
    kernel = _compiled() if compile_here else flex_attention
    query, key, value = (tensor.transpose(0, 1)[None] for tensor in (inputs.query, inputs.key, inputs.value))
    out: Any = kernel(query, key, value, block_mask=inputs.mask, scale=inputs.scale)
    return out.squeeze(0).transpose(0, 1), None


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention)


def _block_lists(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert `(blocks, blocks)` bool into the counts and indices, visible blocks first, that `BlockMask` expects."""
    counts = blocks.sum(-1, dtype=torch.int32)
    indices = blocks.int().argsort(dim=-1, descending=True, stable=True).int()
    return counts[None, None], indices[None, None]


BACKEND = AttentionBackend(attend, build_mask, unsupported_reason=unsupported_reason)
