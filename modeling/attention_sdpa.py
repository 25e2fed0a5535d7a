"""The default backend: torch's scaled_dot_product_attention, document by document, block by block.

Global layers attend within each document, so their cost is the sum of squared document lengths; documents of one
length share a call. Local layers cut the packed row into blocks of twice the window and let every block see itself and
half a block to either side: O(n · window), whatever the documents' lengths. A mask of the blocks keeps documents apart
and the window exact. On a CPU without gradients a few blocks at a time keep small what is in between. (A dense band
mask over n × n, which transformers uses on this backend, costs ten times as much at 4096 tokens; flex_attention has no
backward on CPU.) Where that function leaves a CPU's bfloat16 units idle, `attention_products` computes the same.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad, scaled_dot_product_attention

from .attention_products import attend_by_products, is_faster
from .layout import PackedLayout
from .pieces import bounds

# Blocks are multiples of this many tokens: smaller ones leave the matrix units idle.
_BLOCK_MULTIPLE = 128


def mask(layout: PackedLayout, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Additive mask `(blocks, 1, block, 2 · block)` of `dtype` for local attention, or None where none is needed."""
    if window is None or (layout.max_length <= window + 1 and not layout.has_holes):
        return None
    block = _block_length(window)
    # Filling is document -1, which sees only itself: no row is left without a key.
    documents = layout.document_ids.int()
    query_documents, key_documents = _query_blocks(documents, block, -1), _key_blocks(documents, block, -1)
    allowed = query_documents[:, :, None] == key_documents[:, None, :]
    if layout.has_holes:
        query_offsets, key_offsets = _query_blocks(layout.offsets, block, 0), _key_blocks(layout.offsets, block, 0)
        allowed &= (query_offsets[:, :, None] - key_offsets[:, None, :]).abs() <= window
    else:
        # Tokens of one document are as far apart as their places, which are the same in every block.
        places = torch.arange(block, device=documents.device)
        keys = torch.arange(2 * block, device=documents.device) - block // 2
        allowed &= (places[:, None] - keys).abs() <= window
    barred = torch.full((), float("-inf"), dtype=dtype, device=allowed.device)
    return torch.where(allowed, barred.new_zeros(()), barred)[:, None]


# torch.compile would make the documents' lengths part of what it compiles, and takes minutes for the blocks' indices.
@torch.compiler.disable
def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    mask: torch.Tensor | None,
    window: int | None,
    scale: float,
    dropout: float,
) -> tuple[torch.Tensor, None]:
    """See `attention` for the arguments."""
    if len(query) == 0:
        return query, None
    if mask is None:
        return _per_document(query, key, value, layout, scale, dropout), None
    return _per_block(query, key, value, mask, _block_length(window or 0), scale, dropout), None


def _per_document(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PackedLayout, scale: float, dropout: float
) -> torch.Tensor:
    lengths = [length for length in layout.with_lengths().lengths or () if length]
    different = len(set(lengths))
    if different == 1:
        query, key, value = (tensor.unflatten(0, (len(lengths), lengths[0])) for tensor in (query, key, value))
        return _sdpa(query, key, value, None, scale, dropout).flatten(0, 1)
    if 2 * different <= len(lengths):
        return _per_length(query, key, value, lengths, scale, dropout)
    documents = zip(*(tensor[None].split(lengths, 1) for tensor in (query, key, value)), strict=True)
    return torch.cat([_sdpa(q, k, v, None, scale, dropout) for q, k, v in documents], 1).squeeze(0)


def _per_length(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], scale: float, dropout: float
) -> torch.Tensor:
    """Documents of one length share a call: of many short ones, each alone would cost more to call than to compute."""
    counts = Counter(sorted(lengths))
    of_documents = torch.tensor(lengths)
    by_length = of_documents.argsort(stable=True)
    # What each document's tokens move by when documents are put in the order of their lengths.
    moved_lengths = of_documents[by_length]
    moves = (of_documents.cumsum(0) - of_documents)[by_length] - (moved_lengths.cumsum(0) - moved_lengths)
    tokens = torch.arange(len(query)) + moves.repeat_interleave(moved_lengths)
    tokens = tokens.to(query.device, non_blocking=True)
    parts = [length * count for length, count in counts.items()]
    groups = zip(counts.items(), *(tensor[tokens].split(parts) for tensor in (query, key, value)), strict=True)
    found = []
    for (length, count), *of_group in groups:
        q, k, v = (tensor.unflatten(0, (count, length)) for tensor in of_group)
        found.append(_sdpa(q, k, v, None, scale, dropout).flatten(0, 1))
    return torch.empty_like(query).index_copy(0, tokens, torch.cat(found))


def _per_block(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    block: int,
    scale: float,
    dropout: float,
) -> torch.Tensor:
    def blocks(start: int, stop: int) -> torch.Tensor:
        queries = _query_blocks(query[start:stop], block)
        keys, values = (_key_blocks(tensor, block, 0, start, stop) for tensor in (key, value))
        of_blocks = mask[start // block : -(-stop // block)].to(query.dtype)
        return _sdpa(queries, keys, values, of_blocks, scale, dropout).flatten(0, 1)[: stop - start]

    pieces = bounds(query, block, dropout)
    if len(pieces) == 1:
        return blocks(0, len(query))
    out = torch.empty_like(query)
    for start, stop in pieces:
        out[start:stop] = blocks(start, stop)
    return out


def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    dropout: float,
) -> torch.Tensor:
    """`(rows, tokens, heads, head_dim)` in and out."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    if is_faster(query, key, dropout):
        return attend_by_products(query, key, value, mask, scale).transpose(1, 2)
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
    return out.transpose(1, 2)


def _block_length(window: int) -> int:
    return max(1, -(-2 * window // _BLOCK_MULTIPLE)) * _BLOCK_MULTIPLE


def _query_blocks(tensor: torch.Tensor, block: int, fill: int = 0) -> torch.Tensor:
    """`(tokens, …)` → `(blocks, block, …)`, the last one filled up."""
    return _pad_tokens(tensor, 0, -len(tensor) % block, fill).unflatten(0, (-1, block))


def _key_blocks(
    tensor: torch.Tensor, block: int, fill: int = 0, start: int = 0, stop: int | None = None
) -> torch.Tensor:
    """Of tokens from `start` to `stop`, `(tokens, …)` → `(blocks, 2 · block, …)`: half a block to either side, too."""
    half = block // 2
    stop = len(tensor) if stop is None else stop
    first, last = start - half, stop + (start - stop) % block + half
    seen = _pad_tokens(tensor[max(0, first) : last], max(0, -first), max(0, last - len(tensor)), fill)
    return _Windows.apply(seen, block)


class _Windows(torch.autograd.Function):
    """`(tokens, …)` → `(tokens / block − 1, 2 · block, …)`: each block and the next one.

    Views that overlap: no copies are kept for the backward pass. That of `Tensor.unfold` itself adds gradients one
    token after another.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, block: int) -> torch.Tensor:
        ctx.block = block
        return tensor.unfold(0, 2 * block, block).movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        first, second = grad.split(ctx.block, 1)
        both = grad.new_empty((len(grad) + 1, ctx.block, *grad.shape[2:]))
        both[0], both[-1] = first[0], second[-1]
        torch.add(first[1:], second[:-1], out=both[1:-1])
        return both.flatten(0, 1), None


def _pad_tokens(tensor: torch.Tensor, before: int, after: int, fill: int) -> torch.Tensor:
    if not before and not after:
        return tensor
    return pad(tensor, (*(0, 0) * (tensor.dim() - 1), before, after), value=fill)
