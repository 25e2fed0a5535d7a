"""Attention as matrix products with a softmax between, for CPUs whose bfloat16 units torch's own kernel leaves idle.

`scaled_dot_product_attention` multiplies bfloat16 at the speed of float32 on a CPU that has AVX-512's bfloat16
instructions and no AMX; `torch.matmul` is more than twice as fast there. As in transformers' eager attention scores
are rounded to bfloat16 before the softmax, which is computed in float32. Some heads and queries at a time keep the
scores near the cores, and the backward pass computes them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# With fewer scores, calls would cost more than they save.
_LEAST_SCORES = 1 << 16
# Scores that exist at a time: two megabytes.
_SCORES = 1 << 20
# The backward pass takes more of a head where documents are long, as each part of the queries adds to the gradients of
# all keys. With still more, memory would be handed back to the system after each part and fetched anew.
_SCORES_BACKWARD = 1 << 22

# Of rows, heads and tokens.
_Part = tuple[slice, slice, slice]


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
        for group, parts in _groups(query, key, _SCORES):
            keys, values = _matrices(key[group]), _matrices(value[group])
            for part in parts:
                weights = _weights(_matrices(query[part]).mul_(scale), keys, mask, part)
                out[part] = torch.bmm(weights, values).view(query[part].shape)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        grad_query, grad_key, grad_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        for group, parts in _groups(query, key, _SCORES_BACKWARD):
            keys, values = _matrices(key[group]), _matrices(value[group])
            gradients = partial(_gradients, grad_out, query, keys, values, mask, ctx.scale)
            first, *others = parts
            grad_query[first], of_keys, of_values = gradients(first)
            for part in others:
                grad_query[part], to_keys, to_values = gradients(part)
                # Sums over several parts are kept in float32.
                of_keys, of_values = of_keys.float().add_(to_keys), of_values.float().add_(to_values)
            grad_key[group] = of_keys.mT.view(key[group].shape)
            grad_value[group] = of_values.mT.view(value[group].shape)
        return grad_query, grad_key, grad_value, None, None


def _gradients(
    grad_out: torch.Tensor,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    part: _Part,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a part of the queries, and by it of keys and values: these transposed, as products give them soonest."""
    queries, grads = _matrices(query[part]).mul_(scale), _matrices(grad_out[part])
    weights = _weights(queries, keys, mask, part)
    grad_scores = torch._softmax_backward_data(torch.bmm(grads, values.mT), weights, -1, weights.dtype)
    grad_queries = torch.bmm(grad_scores, keys).mul_(scale)
    return grad_queries.view(query[part].shape), torch.bmm(queries.mT, grad_scores), torch.bmm(grads.mT, weights)


def _matrices(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of `(rows, heads, …)` as `(rows · heads, …)`, in the order that torch.bmm multiplies as it is."""
    return tensor.clone(memory_format=torch.contiguous_format).flatten(0, 1)


def _weights(queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None, part: _Part) -> torch.Tensor:
    # Three dimensions: of more, torch.matmul copies the transposed matrix for each product, where there is only one.
    scores = torch.bmm(queries, keys.mT)
    if mask is not None:
        rows, _, tokens = part
        of_part = mask[rows, :, tokens]
        scores.view(len(of_part), -1, *scores.shape[1:]).add_(of_part)
    return scores.softmax(-1)


def _groups(
    query: torch.Tensor, key: torch.Tensor, of_a_head: int
) -> Iterator[tuple[tuple[slice, slice], list[_Part]]]:
    """Groups `(rows, heads)` of what attends to its own keys alone, and the parts `(rows, heads, tokens)` of each."""
    rows, heads, tokens, _ = query.shape
    keys = key.shape[2]
    tokens_at_once = min(tokens, max(1, of_a_head // keys))
    heads_at_once = min(heads, max(1, _SCORES // (keys * tokens_at_once)))
    rows_at_once = max(1, _SCORES // (keys * tokens_at_once * heads_at_once))
    for row in range(0, rows, rows_at_once):
        for head in range(0, heads, heads_at_once):
            group = slice(row, row + rows_at_once), slice(head, head + heads_at_once)
            starts = range(0, tokens, tokens_at_once)
            yield group, [(*group, slice(start, start + tokens_at_once)) for start in starts]
