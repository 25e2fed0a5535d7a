"""Attention as matrix products with a softmax between, for CPUs whose bfloat16 units torch's own kernel leaves idle.

`scaled_dot_product_attention` multiplies bfloat16 at the speed of float32 on a CPU that has AVX-512's bfloat16
instructions and no AMX; `torch.matmul` is more than twice as fast there. As in transformers' eager attention scores
are rounded to bfloat16 before the softmax, which is computed in float32. Some heads and queries at a time keep the
scores near the cores, and the backward pass computes them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# With fewer scores, calls would cost more than they save.
_LEAST_SCORES = 1 << 16
# Scores that exist at a time: two megabytes.
_SCORES = 1 << 20
# The backward pass takes more where documents are long: each part of the queries adds to the gradients of all keys.
_QUERIES_BACKWARD = 1024


def is_faster(query: torch.Tensor, key: torch.Tensor, dropout: float) -> bool:
    """Whether this is the way to compute attention of `(rows, heads, tokens, head_dim)`."""
    if query.dtype != torch.bfloat16 or query.device.type != "cpu" or dropout:
        return False
    return query.shape[:-1].numel() * key.shape[-2] >= _LEAST_SCORES and _has_idle_units()


def attend_by_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """What `scaled_dot_product_attention` computes.

    Args:
        query: `(rows, heads, tokens, head_dim)`.
        key, value: `(rows, heads, keys, head_dim)`.
        mask: `(rows, 1, tokens, keys)`, added to the scores, or None.
        scale: factor on the scores.

    Returns:
        Of the shape, dtype and order in memory of `query`.
    """
    return _Products.apply(query, key, value, mask, scale)


@cache
def _has_idle_units() -> bool:
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        out = torch.empty_like(query)
        for group, parts in _groups(query, key):
            keys, values = key[group].contiguous(), value[group].contiguous()
            for part in parts:
                out[part] = _weights(query[part], keys, mask, scale, part) @ values
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        grad_query, grad_key, grad_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        for group, parts in _groups(query, key, _QUERIES_BACKWARD):
            keys, values = key[group].contiguous(), value[group].contiguous()
            # Transposed as products give them soonest; sums over parts of the queries are kept in float32.
            of_keys, of_values = (torch.zeros_like(tensor.mT, dtype=torch.float32) for tensor in (keys, values))
            for part in parts:
                queries, grads = query[part], grad_out[part]
                weights = _weights(queries, keys, mask, ctx.scale, part)
                of_values += grads.mT @ weights
                grad_scores = torch._softmax_backward_data(grads @ values.mT, weights, -1, weights.dtype)
                grad_scores *= ctx.scale
                grad_query[part] = grad_scores @ keys
                of_keys += queries.mT @ grad_scores
            grad_key[group], grad_value[group] = of_keys.mT, of_values.mT
        return grad_query, grad_key, grad_value, None, None


def _weights(
    queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None, scale: float, part: tuple[slice, ...]
) -> torch.Tensor:
    scores = (queries * scale) @ keys.mT
    if mask is not None:
        rows, _, tokens = part
        scores += mask[rows, :, tokens]
    return scores.softmax(-1)


def _groups(
    query: torch.Tensor, key: torch.Tensor, least_tokens: int = 1
) -> Iterator[tuple[tuple[slice, slice], list[tuple[slice, slice, slice]]]]:
    """Groups `(rows, heads)` of what attends to its own keys alone, and the parts `(rows, heads, tokens)` of each."""
    rows, heads, tokens, _ = query.shape
    keys = key.shape[2]
    tokens_at_once = min(tokens, max(least_tokens, _SCORES // keys))
    heads_at_once = min(heads, max(1, _SCORES // (keys * tokens_at_once)))
    rows_at_once = max(1, _SCORES // (keys * tokens_at_once * heads_at_once))
    for row in range(0, rows, rows_at_once):
        for head in range(0, heads, heads_at_once):
            group = slice(row, row + rows_at_once), slice(head, head + heads_at_once)
            starts = range(0, tokens, tokens_at_once)
            yield group, [(*group, slice(start, start + tokens_at_once)) for start in starts]
