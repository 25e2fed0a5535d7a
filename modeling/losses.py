"""Masked-LM loss computed directly from hidden states, without a `(tokens, vocabulary)` matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch

from .cpu_tuning import empty_float32

# CPUs: rows whose logits exist at a time. GPUs: number of these logits (4 GB in bfloat16, with gradients). Smaller
# chunks save memory, but each chunk adds to the gradient of the whole vocabulary matrix.
CHUNK, CHUNK_LOGITS_ON_GPUS = 2048, 1 << 30
# Logits processed at a time: on CPUs few enough to stay in the cache between steps, on GPUs enough to fill the device.
# Compiled steps on GPUs have no intermediates in memory and take all of a chunk.
BLOCK, BLOCK_ON_GPUS = 5 << 19, 1 << 27
# Matrix products are slow on GPUs if rows are not aligned.
_BLOCK_MULTIPLE = 1024

# Columns of a block of the vocabulary, and its bias.
_Blocks = list[tuple[slice, torch.Tensor | None]]


# The number of chunks depends on the labels, which a graph cannot express.
@torch.compiler.disable
def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    chunk: int | None = None,
    block: int | None = None,
    compiled: bool = False,
) -> torch.Tensor:
    """Compute the cross-entropy of `softmax(hidden @ weight.T + bias)` against `labels`.

    For each chunk of rows, a first pass computes the logits block by block of the vocabulary, and a second pass turns
    each block into its gradient and frees it. At most `(chunk, vocabulary)` logits exist at a time, in autocast's
    dtype where it is enabled, and `(chunk, block)` in float32. The gradients are ready when the forward pass ends; the
    backward pass scales them, in place unless it can run again.

    Args:
        hidden: `(rows, hidden)`, labelled rows only.
        weight: `(vocabulary, hidden)`.
        bias: `(vocabulary,)` or None.
        labels: `(rows,)` int64 in [0, vocabulary).
        num_items_in_batch: divisor of the summed loss (Trainer passes the labelled tokens of the global batch); the
            number of rows if None.
        chunk: maximum number of rows per chunk; the default depends on the device.
        block: tokens of the vocabulary per block; the default depends on the device.
        compiled: whether torch.compile fuses the elementwise steps, so that logits are read twice and written once.

    Returns:
        float32 scalar; without rows and divisor it is 0 and so are its gradients.

    Raises:
        RuntimeError: a label is outside the vocabulary.

    Example:
        >>> rows = labels.flatten() != -100
        >>> loss = linear_cross_entropy(hidden[rows], decoder.weight, decoder.bias, labels.flatten()[rows])
        >>> loss.backward()
    """
    if not torch.is_grad_enabled():
        # Inside an autograd.Function gradients are always disabled, so it only sees `requires_grad`.
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    is_on_cpu = hidden.device.type == "cpu"
    if chunk is None:
        chunk = CHUNK if is_on_cpu else max(1, CHUNK_LOGITS_ON_GPUS // len(weight))
    if block is None:
        tokens = (BLOCK if is_on_cpu else BLOCK_ON_GPUS) // max(1, min(len(labels), chunk))
        if compiled and not is_on_cpu:
            tokens = len(weight)
        block = max(1, tokens // _BLOCK_MULTIPLE) * _BLOCK_MULTIPLE
    steps = _compiled_steps() if compiled else (_update_scores, _gradient)
    needs = hidden.requires_grad, weight.requires_grad, bias is not None and bias.requires_grad
    total = _LinearCrossEntropy.apply(hidden, weight, bias, labels, needs, chunk, block, steps)[0]
    return total / _divisor(labels, num_items_in_batch)


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Compute the same loss from logits `(rows, vocabulary)`, for vocabulary layers that are not a single matrix."""
    total = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
    return total / _divisor(labels, num_items_in_batch)


def _divisor(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    return max(1, len(labels)) if num_items_in_batch is None else num_items_in_batch


def _scores(logits: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # The bias is added in float32, not to the rounded product.
    return logits.float() if bias is None else logits.float() + bias


def _update_scores(
    logits: torch.Tensor,
    bias: torch.Tensor | None,
    columns: torch.Tensor,
    maximum: torch.Tensor,
    total: torch.Tensor,
    label_scores: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Update the maximum score, the sum of exp(score − maximum) and the label's score, each `(rows, 1)` float32.

    Online softmax: Milakov and Gimelshein (2018), arXiv 1805.02867.

    Args:
        logits: a block `(rows, block)`.
        bias: its bias `(block,)` or None.
        columns: `(rows,)` int64, column of the label; outside of [0, block) if the label is in another block.
        maximum, total, label_scores: values of the previous blocks.
    """
    scores = _scores(logits, bias)
    # torch.compile reads the block once for this form of the maximum and the sum.
    block_maximum = scores.amax(-1, keepdim=True)
    block_total = (scores - block_maximum).exp().sum(-1, keepdim=True)
    new_maximum = torch.maximum(maximum, block_maximum)
    total = total * (maximum - new_maximum).exp() + block_total * (block_maximum - new_maximum).exp()
    column, is_inside = _clamp(columns, logits.shape[1])
    return new_maximum, total, torch.where(is_inside, scores.gather(1, column), label_scores)


def _gradient(
    logits: torch.Tensor,
    bias: torch.Tensor | None,
    columns: torch.Tensor,
    log_normalizer: torch.Tensor,
    label_gradients: torch.Tensor,
    with_sums: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute the derivative of the summed loss with respect to a block of logits: softmax(logits) − one_hot(labels).

    Args:
        logits, bias, columns: see `_update_scores`.
        log_normalizer: `(rows, 1)` float32, logarithm of the sum of exp(score).
        label_gradients: `(rows, 1)` in the dtype of the logits, derivative at the label.
        with_sums: whether to sum the probabilities over rows.

    Returns:
        The derivative `(rows, block)` in the dtype of the logits, and the sums `(block,)` float32 or None.
    """
    probabilities = (_scores(logits, bias) - log_normalizer).exp()
    sums = probabilities.sum(0) if with_sums else None
    gradient = probabilities.to(logits.dtype)
    column, is_inside = _clamp(columns, logits.shape[1])
    # One column per row, so no two writes collide.
    return gradient.scatter_(1, column, torch.where(is_inside, label_gradients, gradient.gather(1, column))), sums


def _clamp(columns: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return columns `(rows, 1)` clamped to a block of the vocabulary, and whether they are inside."""
    return columns.clamp(0, width - 1)[:, None], ((columns >= 0) & (columns < width))[:, None]


@cache
def _compiled_steps() -> tuple[Callable[..., Any], Callable[..., Any]]:
    return torch.compile(_update_scores, dynamic=True), torch.compile(_gradient, dynamic=True)


def _chunks(rows: int, max_rows: int) -> Iterator[slice]:
    """Split rows into the fewest chunks, of equal size: a short last chunk would cost more than its share."""
    count = -(-rows // max_rows)
    for number in range(count):
        yield slice(number * rows // count, (number + 1) * rows // count)


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed loss; the gradients are ready when the forward pass ends."""

    @staticmethod
    def forward(
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        needs: tuple[bool, bool, bool],
        chunk: int,
        block: int,
        steps: tuple[Callable[..., Any], Callable[..., Any]],
    ) -> tuple[torch.Tensor | None, ...]:
        device_type = hidden.device.type
        autocast = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if autocast else weight.dtype
        needs_hidden, needs_weight, needs_bias = needs
        needs_gradient = any(needs)
        # Gradients are summed over chunks and blocks in float32.
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if needs_hidden else None
        grad_weight = _gradient_buffer(weight, has_rows=len(labels) > 0) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needs_bias else None
        # Raises for labels outside the vocabulary, which below would belong to no block.
        weight[:, 0].gather(0, labels)
        is_on_cpu = device_type == "cpu"
        if not is_on_cpu:
            # CPUs convert block by block, in the cache.
            weight = weight.to(dtype)
            if grad_bias is not None:
                # Below, only probabilities are added.
                grad_bias.index_add_(0, labels, grad_bias.new_full((len(labels),), -1.0))
        slices = [slice(start, start + block) for start in range(0, len(weight), block)]
        blocks: _Blocks = [(columns, None if bias is None else bias[columns]) for columns in slices]
        update_scores, gradient = steps
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(device_type, enabled=False):
            for rows in _chunks(len(labels), chunk):
                chunk_hidden, targets = hidden[rows].to(dtype), labels[rows]
                logits, target_log_probs, log_normalizer = _chunk_logits(
                    chunk_hidden, weight, blocks, targets, update_scores, keep=needs_gradient
                )
                loss -= target_log_probs.sum()
                target_grads = target_log_probs.expm1().to(dtype)
                # In reverse order, since the last block is still in the cache.
                for columns, block_bias in reversed(blocks if needs_gradient else []):
                    grad, sums = gradient(
                        logits.pop(),
                        block_bias,
                        targets - columns.start,
                        log_normalizer,
                        target_grads,
                        grad_bias is not None and not is_on_cpu,
                    )
                    if grad_hidden is not None:
                        _add_product(grad_hidden[rows], grad, weight[columns].to(dtype))
                    if grad_weight is not None:
                        _add_product(grad_weight[columns], grad.T, chunk_hidden, overwrite=not rows.start)
                    if grad_bias is not None:
                        # On CPUs, a product sums rows in float32 without a copy.
                        grad_bias[columns] += grad.new_ones(len(grad)) @ grad if sums is None else sums
                    if not is_on_cpu:
                        # Before the next chunk's logits are computed; the allocator of CPUs is faster without it.
                        del grad
        return loss, grad_hidden, grad_weight, grad_bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor | None, ...]) -> None:
        gradients = output[1:]
        ctx.mark_non_differentiable(*(gradient for gradient in gradients if gradient is not None))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*gradients, *inputs[:4])
        ctx.save_for_forward(*inputs[:4])

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor, *_: None) -> tuple[torch.Tensor | None, ...]:
        gradients, inputs = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        if torch.is_grad_enabled():
            # With `create_graph`: the gradients of the forward pass have no derivatives.
            scaled = _differentiable_gradients(grad_total, *inputs)
            return *scaled, None, None, None, None, None
        # In place: a second copy of the largest gradient would raise the memory peak. Not if backward can run again
        # (`retain_graph=True`), for which torch has no public query.
        in_place = not torch._C._autograd._get_current_graph_task_keep_graph()
        scaled = tuple(
            None
            if gradient is None
            else (gradient.mul_(grad_total) if in_place else gradient * grad_total).to(tensor.dtype)
            for gradient, tensor in zip(gradients, inputs[:3], strict=True)
        )
        return *scaled, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        gradients = _differentiable_gradients(torch.ones((), device=ctx.saved_tensors[0].device), *ctx.saved_tensors)
        pairs = zip(gradients, tangents[:3], strict=True)
        products = [(grad * tangent).sum() for grad, tangent in pairs if grad is not None and tangent is not None]
        return torch.stack(products).sum(), None, None, None


def _differentiable_gradients(
    grad_total: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of the summed loss that can be differentiated, from all logits at once."""

    def total(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return cross_entropy(torch.nn.functional.linear(hidden, weight, bias), labels, 1)

    inputs = (hidden, weight) if bias is None else (hidden, weight, bias)
    gradients = torch.func.vjp(total, *inputs)[1](grad_total)
    return gradients if bias is not None else (*gradients, None)


def _gradient_buffer(weight: torch.Tensor, has_rows: bool) -> torch.Tensor:
    """Allocate a float32 buffer with the shape of `weight`, uninitialised if the first chunk of rows will fill it."""
    if not has_rows:
        return torch.zeros_like(weight, dtype=torch.float32)
    if weight.device.type == "cpu":
        return empty_float32(weight.shape)
    return torch.empty_like(weight, dtype=torch.float32)


def _add_product(total: torch.Tensor, first: torch.Tensor, second: torch.Tensor, overwrite: bool = False) -> None:
    """Add `first @ second` to `total` in float32, or write it there."""
    if _has_float32_product(first):
        # The product is neither rounded nor stored.
        torch.addmm(total, first, second, beta=0 if overwrite else 1, out_dtype=torch.float32, out=total)
    elif overwrite:
        total.copy_(first @ second)
    else:
        total += first @ second


def _has_float32_product(factor: torch.Tensor) -> bool:
    """Whether the device multiplies such matrices into float32 without converting them first."""
    return factor.is_cuda and factor.dtype in (torch.float16, torch.bfloat16)


def _chunk_logits(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    blocks: _Blocks,
    labels: torch.Tensor,
    update_scores: Callable[..., Any],
    keep: bool,
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Compute the logits of a chunk block by block.

    Args:
        hidden: `(rows, hidden)`.
        weight: `(vocabulary, hidden)`.
        blocks: blocks of the vocabulary.
        labels: `(rows,)`.
        update_scores: `_update_scores`, possibly compiled.
        keep: whether the logits are needed again.

    Returns:
        The logits of each block (empty unless `keep`), the log-probabilities of the labels and the logarithm of the
        sum of all exp(score), the last two `(rows, 1)` in float32.
    """
    kept = []
    maximum = torch.full((len(labels), 1), -torch.inf, device=hidden.device)
    total, label_scores = torch.zeros_like(maximum), torch.zeros_like(maximum)
    for columns, bias in blocks:
        logits = hidden @ weight[columns].to(hidden.dtype).T
        if logits.device.type != "cpu":
            # Blocks have at most two widths, for which kernels that know them are faster.
            torch._dynamo.mark_static(logits, 1)
        maximum, total, label_scores = update_scores(
            logits, bias, labels - columns.start, maximum, total, label_scores
        )
        if keep:
            kept.append(logits)
    log_normalizer = maximum + total.log()
    return kept, label_scores - log_normalizer, log_normalizer
