"""CPU-only tuning: nothing in this file runs on a GPU, and without it the model computes the same values.

* `row_chunks`, `map_row_chunks`: inference computes long rows in chunks, which bounds the memory of intermediates.
* `matmul_attention`: attention as matrix products, on CPUs where SDPA does not use the bfloat16 instructions.
* `tied_lookup`: one dense gradient for the tied vocabulary matrix instead of two.
* `empty_float32`: large matrices in huge pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from .layout import is_in_graph

# Rows per chunk: enough to keep matrix products efficient, few enough that intermediates stay in the cache.
_CHUNK = 1024
# Minimum number of attention scores: below it, the overhead of the calls exceeds the gain.
_MIN_SCORES = 1 << 16
# Attention scores held at a time in the forward pass: 2 MB in bfloat16.
_MAX_SCORES = 1 << 20
# The backward pass takes larger parts, because each part adds to the gradients of all keys.
_MAX_SCORES_BACKWARD = 1 << 22

# Slices of rows, heads and tokens.
_Part = tuple[slice, slice, slice]


def row_chunks(rows: torch.Tensor, multiple: int = 1, dropout: float = 0.0) -> list[tuple[int, int]]:
    """Split a tensor into chunks of rows; a single chunk on GPUs, with gradients, and in a graph.

    Args:
        rows: `(rows, …)`.
        multiple: every chunk but the last has a multiple of this many rows.
        dropout: dropout probability of the computation. With dropout there is one chunk, so that gradient
            checkpointing, which computes first without and then with gradients, draws the same random numbers.

    Returns:
        `(start, stop)` of each chunk.
    """
    count = rows.shape[0]
    # Gradients keep all intermediates, so chunks would save nothing; in a graph their number would be a constant.
    if rows.device.type != "cpu" or torch.is_grad_enabled() or dropout or is_in_graph():
        return [(0, count)]
    length = max(1, _CHUNK // multiple) * multiple
    return [(start, min(start + length, count)) for start in range(0, max(1, count), length)]


def map_row_chunks(
    function: Callable[..., tuple[torch.Tensor, ...]], *rows: torch.Tensor, dropout: float = 0.0
) -> tuple[torch.Tensor, ...]:
    """Return `function(*rows)`, computed chunk by chunk where `row_chunks` allows it.

    Args:
        function: maps tensors `(rows, …)` to tensors `(rows, …)` and treats every row independently.
        rows: tensors with the same number of rows.
        dropout: see `row_chunks`.
    """
    chunks = row_chunks(rows[0], dropout=dropout)
    if len(chunks) == 1:
        return function(*rows)
    outputs: list[torch.Tensor] = []

    # A function, so that its local tensors are freed before the next chunk.
    def compute(start: int, stop: int) -> None:
        parts = function(*(tensor[start:stop] for tensor in rows))
        if not outputs:
            outputs.extend(part.new_empty((len(rows[0]), *part.shape[1:])) for part in parts)
        for output, part in zip(outputs, parts, strict=True):
            output[start:stop] = part

    for start, stop in chunks:
        compute(start, stop)
    return tuple(outputs)


def prefers_matmul_attention(query: torch.Tensor, key: torch.Tensor, dropout: float) -> bool:
    """Whether `matmul_attention` is faster than SDPA.

    `scaled_dot_product_attention` multiplies bfloat16 at the speed of float32 on CPUs that have AVX-512 bfloat16
    instructions but no AMX; `torch.bmm` is more than twice as fast there.

    Args:
        query, key: `(rows, heads, tokens, head_dim)`.
        dropout: probability of dropping an attention weight.
    """
    if query.dtype != torch.bfloat16 or query.device.type != "cpu" or dropout:
        return False
    return query.shape[:-1].numel() * key.shape[-2] >= _MIN_SCORES and _sdpa_ignores_bfloat16_instructions()


def matmul_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Compute `scaled_dot_product_attention` as matrix products with a softmax in between.

    As in transformers' eager attention, scores are rounded to the inputs' dtype before the softmax, which is computed
    in float32. At most `_MAX_SCORES` scores exist at a time; the backward pass recomputes them.

    Args:
        query: `(rows, heads, tokens, head_dim)`.
        key, value: `(rows, heads, keys, head_dim)`.
        mask: `(rows, 1, tokens, keys)`, added to the scores, or None.
        scale: factor applied to the scores.

    Returns:
        Tensor with the shape, dtype and strides of `query`.
    """
    return _MatmulAttention.apply(query, key, value, mask, scale)


def tied_lookup(
    embedding: nn.Embedding, input_ids: torch.Tensor | None, weight: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
    """Look up token embeddings so that their gradient is added in place to that of the tied vocabulary matrix.

    The lookup gets a sparse gradient, which autograd adds to the dense one of the loss, so that one matrix of the
    vocabulary's size is allocated instead of two. Measured in training steps of 1 × 1,024 tokens (base shape with 8
    layers, bfloat16 autocast): 0.78 instead of 1.07 GB above weights and optimizer, and 5-9 % less time (3 % in
    float32).

    Args:
        embedding: token embeddings.
        input_ids: token ids of any shape, or None.
        weight: matrix `(vocabulary, hidden)` of the vocabulary layer.

    Returns:
        None, the embeddings `(*input_ids.shape, hidden)` and the matrix that the loss must multiply by. On GPUs,
        without gradients, in a graph, in torch.func and for untied weights: `input_ids`, None and `weight`.
    """
    is_tied = embedding.weight is weight and not embedding.scale_grad_by_freq and embedding.max_norm is None
    # Transforms of torch.func replace parameters by tensors.
    is_trained = torch.is_grad_enabled() and weight.requires_grad and isinstance(weight, nn.Parameter)
    is_on_cpu = weight.device.type == "cpu" and not is_in_graph()
    if input_ids is None or not (is_tied and is_trained and is_on_cpu):
        return input_ids, None, weight
    weight = _DenseGradient.apply(weight, True)
    # Ready nodes run in reverse order of creation: created before the lookup, this one delays the gradient of the loss
    # until the sparse gradient has arrived, to which autograd adds a dense one in place, but not vice versa.
    loss_weight = _DenseGradient.apply(weight, True)
    lookup_weight = _DenseGradient.apply(weight, False)
    return None, nn.functional.embedding(input_ids, lookup_weight, embedding.padding_idx, sparse=True), loss_weight


def empty_float32(shape: torch.Size) -> torch.Tensor:
    """Allocate an uninitialised float32 tensor; NumPy requests huge pages, which are several times faster to fill."""
    return torch.from_numpy(np.empty(shape, dtype=np.float32))


class _DenseGradient(torch.autograd.Function):
    """Identity that makes a sparse gradient dense, always or only with `create_graph`, where autograd needs it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: torch.Tensor, always: bool) -> torch.Tensor:
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, bool], output: torch.Tensor) -> None:
        ctx.always = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return (grad.to_dense() if grad.is_sparse and (ctx.always or torch.is_grad_enabled()) else grad), None


@cache
def _sdpa_ignores_bfloat16_instructions() -> bool:
    # `get_capabilities` is missing in early versions of torch.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16")) and not capabilities.get("amx_tile")


class _MatmulAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
    ) -> torch.Tensor:
        out = torch.empty_like(query)
        for group, parts in _groups(query, key, _MAX_SCORES):
            keys, values = _matrices(key[group]), _matrices(value[group])
            for part in parts:
                weights = _scores(_matrices(query[part]).mul_(scale), keys, mask, part).softmax(-1)
                out[part] = torch.bmm(weights, values).view(query[part].shape)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        *tensors, ctx.scale = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        grad_query, grad_key, grad_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        for group, parts in _groups(query, key, _MAX_SCORES_BACKWARD):
            keys, values = _matrices(key[group]), _matrices(value[group])
            # Transposed, since these products are faster; sums over several parts are kept in float32.
            grad_keys: torch.Tensor | None = None
            grad_values: torch.Tensor | None = None
            for part in parts:
                queries, grads = _matrices(query[part]).mul_(ctx.scale), _matrices(grad_out[part])
                scores = _scores(queries, keys, mask, part)
                weights, softmax_vjp = torch.func.vjp(partial(torch.softmax, dim=-1), scores)  # type: ignore[misc]
                (grad_scores,) = softmax_vjp(torch.bmm(grads, values.mT))
                grad_query[part] = torch.bmm(grad_scores, keys).mul_(ctx.scale).view(query[part].shape)
                grad_keys = _add_float32(grad_keys, torch.bmm(queries.mT, grad_scores))
                grad_values = _add_float32(grad_values, torch.bmm(grads.mT, weights))
            if grad_keys is not None and grad_values is not None:
                grad_key[group] = grad_keys.mT.view(key[group].shape)
                grad_value[group] = grad_values.mT.view(value[group].shape)
        return grad_query, grad_key, grad_value, None, None


def _add_float32(total: torch.Tensor | None, part: torch.Tensor) -> torch.Tensor:
    return part if total is None else total.float().add_(part)


def _matrices(tensor: torch.Tensor) -> torch.Tensor:
    """Copy `(rows, heads, …)` into a contiguous `(rows · heads, …)`, which torch.bmm reads without another copy."""
    return tensor.clone(memory_format=torch.contiguous_format).flatten(0, 1)


def _scores(queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None, part: _Part) -> torch.Tensor:
    # Not torch.matmul, which copies a single transposed matrix.
    scores = torch.bmm(queries, keys.mT)
    if mask is not None:
        rows, _, tokens = part
        part_mask = mask[rows, :, tokens]
        scores.view(len(part_mask), -1, *scores.shape[1:]).add_(part_mask)
    return scores


def _groups(
    query: torch.Tensor, key: torch.Tensor, max_scores_per_head: int
) -> Iterator[tuple[tuple[slice, slice], list[_Part]]]:
    """Split attention into groups `(rows, heads)` with keys of their own, and each group into parts of the queries."""
    rows, heads, tokens, _ = query.shape
    keys = key.shape[2]
    part_tokens = min(tokens, max(1, max_scores_per_head // keys))
    group_heads = min(heads, max(1, _MAX_SCORES // (keys * part_tokens)))
    group_rows = max(1, _MAX_SCORES // (keys * part_tokens * group_heads))
    for row in range(0, rows, group_rows):
        for head in range(0, heads, group_heads):
            group = slice(row, row + group_rows), slice(head, head + group_heads)
            yield group, [(*group, slice(start, start + part_tokens)) for start in range(0, tokens, part_tokens)]
