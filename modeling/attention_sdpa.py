"""Default backend on CPUs: torch's scaled_dot_product_attention per document and per block.

Global layers attend within each document, so their cost is the sum of squared document lengths; documents of the same
length share a call. Local layers cut the packed row into blocks of twice the window; every block attends to itself and
to half a block on either side, which costs O(n · window) for any document lengths. A mask of the blocks separates the
documents and makes the window exact.

A graph must be right for other documents, so a dense layout keeps padding. Its local layers use the same blocks under
torch.compile if rows are long; all other layers are one call with an n × n mask.

Alternatives: a band mask over n × n pairs, which transformers uses, takes ten times as long at 4,096 tokens;
flex_attention has no backward pass on CPUs.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from .attention import AttentionBackend, AttentionInputs
from .attention_eager import build_mask as build_mask_eager
from .cpu_tuning import matmul_attention, prefers_matmul_attention, row_chunks
from .layout import PackedLayout, is_program

# Blocks are multiples of this many tokens: smaller ones leave matrix units idle.
_BLOCK_MULTIPLE = 128


def build_mask(layout: PackedLayout, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Build the additive mask `(blocks, 1, block, 2 · block)` of local attention, or return None if none is needed.

    For rows of a dense layout it is the bool mask `(batch, 1, length, length)`, where padding attends to every cell.
    """
    if layout.dense and not _has_long_rows(layout, window):
        if window is None and not layout.has_holes:
            return None
        allowed = build_mask_eager(layout, window, dtype)
        return allowed | ~allowed.any(-1, keepdim=True)
    if window is None or (layout.max_length <= window + 1 and not layout.has_holes):
        return None
    block = _block_length(window)
    # Padding is document -1, which attends to itself: no row is without a key.
    documents = layout.document_ids.int()
    key_blocks = _key_blocks_in_graph if layout.dense else _key_blocks
    query_documents, key_documents = _query_blocks(documents, block, -1), key_blocks(documents, block, -1)
    allowed = query_documents[:, :, None] == key_documents[:, None, :]
    if layout.has_holes:
        query_offsets, key_offsets = _query_blocks(layout.offsets, block, 0), key_blocks(layout.offsets, block, 0)
        allowed &= (query_offsets[:, :, None] - key_offsets[:, None, :]).abs() <= window
    else:
        # Without holes, distances between tokens of a document are the same in every block.
        queries = torch.arange(block, device=documents.device)
        keys = torch.arange(2 * block, device=documents.device) - block // 2
        allowed &= (queries[:, None] - keys).abs() <= window
    blocked = torch.full((), float("-inf"), dtype=dtype, device=allowed.device)
    return torch.where(allowed, blocked.new_zeros(()), blocked)[:, None]


def attend(inputs: AttentionInputs) -> tuple[torch.Tensor, None]:
    """Compute global layers document by document and local layers block by block, or all rows of a dense layout."""
    if not inputs.layout.dense:
        return _attend_packed(inputs), None
    is_long = _has_long_rows(inputs.layout, inputs.window)
    return (_attend_blocks_in_graph(inputs) if is_long else _attend_rows(inputs)), None


def _has_long_rows(layout: PackedLayout, window: int | None) -> bool:
    """Whether local attention in blocks saves time. An exported program must not depend on a length."""
    return window is not None and not is_program() and layout.max_length > 2 * _block_length(window)


def _attend_rows(inputs: AttentionInputs) -> torch.Tensor:
    query, key, value = (
        tensor.view(*inputs.layout.grid, *tensor.shape[1:]).transpose(1, 2)
        for tensor in (inputs.query, inputs.key, inputs.value)
    )
    out = scaled_dot_product_attention(query, key, value, inputs.mask, inputs.dropout, scale=inputs.scale)
    return out.transpose(1, 2).flatten(0, 1)


def _attend_blocks_in_graph(inputs: AttentionInputs) -> torch.Tensor:
    block = _block_length(inputs.window or 0)
    queries = _query_blocks(inputs.query, block).transpose(1, 2)
    keys, values = (_key_blocks_in_graph(tensor, block).transpose(1, 2) for tensor in (inputs.key, inputs.value))
    mask = inputs.mask.to(queries.dtype)
    out = scaled_dot_product_attention(queries, keys, values, mask, inputs.dropout, scale=inputs.scale)
    return out.transpose(1, 2).flatten(0, 1)[: len(inputs.query)]


# A graph would contain the document lengths as constants, and compiling the indices of blocks takes minutes.
@torch.compiler.disable(reason="Attention over packed documents depends on their lengths.")
def _attend_packed(inputs: AttentionInputs) -> torch.Tensor:
    if len(inputs.query) == 0:
        return inputs.query
    return _attend_documents(inputs) if inputs.mask is None else _attend_blocks(inputs)


def _attend_documents(inputs: AttentionInputs) -> torch.Tensor:
    tensors = (inputs.query, inputs.key, inputs.value)
    lengths = [length for length in inputs.layout.with_lengths().lengths or () if length]
    counts = Counter(sorted(lengths))
    if len(counts) == 1:
        query, key, value = (tensor.unflatten(0, (len(lengths), lengths[0])) for tensor in tensors)
        return _sdpa(query, key, value, inputs).flatten(0, 1)
    if 2 * len(counts) > len(lengths):
        documents = zip(*(tensor[None].split(lengths, 1) for tensor in tensors), strict=True)
        return torch.cat([_sdpa(query, key, value, inputs) for query, key, value in documents], 1).squeeze(0)
    # Documents of the same length share a call: for many short documents, calls cost more than the computation.
    by_length = _order_by_length(lengths).to(inputs.query.device, non_blocking=True)
    sizes = [length * count for length, count in counts.items()]
    groups = zip(counts.items(), *(tensor[by_length].split(sizes) for tensor in tensors), strict=True)
    outputs = []
    for (length, count), *group in groups:
        query, key, value = (tensor.unflatten(0, (count, length)) for tensor in group)
        outputs.append(_sdpa(query, key, value, inputs).flatten(0, 1))
    return torch.empty_like(inputs.query).index_copy(0, by_length, torch.cat(outputs))


def _order_by_length(lengths: list[int]) -> torch.Tensor:
    """Return the indices of all tokens with documents sorted by length: `(total_tokens,)` int64."""
    sizes = torch.tensor(lengths)
    order = sizes.argsort(stable=True)
    sorted_sizes = sizes[order]
    starts, sorted_starts = (sizes.cumsum(0) - sizes)[order], sorted_sizes.cumsum(0) - sorted_sizes
    return torch.arange(sum(lengths)) + (starts - sorted_starts).repeat_interleave(sorted_sizes)


def _attend_blocks(inputs: AttentionInputs) -> torch.Tensor:
    block = _block_length(inputs.window or 0)

    def compute(start: int, stop: int) -> torch.Tensor:
        queries = _query_blocks(inputs.query[start:stop], block)
        keys, values = (_key_blocks(tensor, block, 0, start, stop) for tensor in (inputs.key, inputs.value))
        mask = inputs.mask[start // block : -(-stop // block)].to(queries.dtype)
        return _sdpa(queries, keys, values, inputs, mask).flatten(0, 1)[: stop - start]

    chunks = row_chunks(inputs.query, block, inputs.dropout)
    if len(chunks) == 1:
        return compute(0, len(inputs.query))
    out = torch.empty_like(inputs.query)
    for start, stop in chunks:
        out[start:stop] = compute(start, stop)
    return out


def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    inputs: AttentionInputs,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """`(rows, tokens, heads, head_dim)` in and out, with the scale and dropout of `inputs`."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    scale, dropout = inputs.scale, inputs.dropout
    if prefers_matmul_attention(query, key, dropout):
        return matmul_attention(query, key, value, mask, scale).transpose(1, 2)
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)
    return out.transpose(1, 2)


def _block_length(window: int) -> int:
    return max(1, -(-2 * window // _BLOCK_MULTIPLE)) * _BLOCK_MULTIPLE


def _query_blocks(tensor: torch.Tensor, block: int, fill: int = 0) -> torch.Tensor:
    """`(tokens, …)` → `(blocks, block, …)`, the last block padded."""
    return _pad_tokens(tensor, 0, -len(tensor) % block, fill).unflatten(0, (-1, block))


def _key_blocks(
    tensor: torch.Tensor, block: int, fill: int = 0, start: int = 0, stop: int | None = None
) -> torch.Tensor:
    """`(tokens, …)` → `(blocks, 2 · block, …)`: each block from `start` to `stop` and half a block on each side."""
    half = block // 2
    stop = len(tensor) if stop is None else stop
    first, last = start - half, stop + (start - stop) % block + half
    visible = _pad_tokens(tensor[max(0, first) : last], max(0, -first), max(0, last - len(tensor)), fill)
    return _OverlappingBlocks.apply(visible, block)


def _key_blocks_in_graph(tensor: torch.Tensor, block: int, fill: int = 0) -> torch.Tensor:
    """All blocks of `_key_blocks`, by operations that compile quickly."""
    half = block // 2
    padded = _pad_tokens(tensor, half, -len(tensor) % block + half, fill)
    return torch.cat([part.unflatten(0, (-1, block)) for part in (padded[:-block], padded[block:])], 1)


class _OverlappingBlocks(torch.autograd.Function):
    """`(tokens, …)` → `(tokens / block − 1, 2 · block, …)`: each block together with the next one.

    The output is a view, so nothing is copied for the backward pass. The backward pass of `Tensor.unfold` would add
    gradients token by token.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: torch.Tensor, block: int) -> torch.Tensor:
        return tensor.unfold(0, 2 * block, block).movedim(-1, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, int], output: torch.Tensor) -> None:
        ctx.block = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        first, second = grad.split(ctx.block, 1)
        return torch.cat([first[:1], first[1:] + second[:-1], second[-1:]]).flatten(0, 1), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: None) -> torch.Tensor:
        return _OverlappingBlocks.forward(tangent, ctx.block)


def _pad_tokens(tensor: torch.Tensor, before: int, after: int, fill: int) -> torch.Tensor:
    if not before and not after:
        return tensor
    return pad(tensor, (*(0, 0) * (tensor.dim() - 1), before, after), value=fill)


BACKEND = AttentionBackend(attend, build_mask, needs_lengths=True)
