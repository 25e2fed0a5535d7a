"""Masked-LM loss computed directly from hidden states, without a `(tokens, vocabulary)` matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch

from .cpu_tuning import empty_float32

# Rows whose logits exist at a time. Smaller chunks save memory, but each chunk adds to the gradient of the whole
# vocabulary matrix.
CHUNK, CHUNK_ON_GPUS = 2048, 4096
# Logits processed at a time: on CPUs few enough to stay in the cache between steps, on GPUs enough to fill the device.
BLOCK, BLOCK_ON_GPUS = 5 << 19, 1 << 26
_BLOCK_MULTIPLE = 1024

_UpdateNormalizer = Callable[
    [torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]
]
_Probabilities = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor], torch.Tensor]
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
    if chunk is None:
        chunk = CHUNK if hidden.device.type == "cpu" else CHUNK_ON_GPUS
    if block is None:
        tokens = (BLOCK if hidden.device.type == "cpu" else BLOCK_ON_GPUS) // max(1, min(len(labels), chunk))
        block = max(1, tokens // _BLOCK_MULTIPLE) * _BLOCK_MULTIPLE
    steps = _compiled_steps() if compiled else (_update_normalizer, _probabilities)
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


def _update_normalizer(
    logits: torch.Tensor, bias: torch.Tensor | None, maximum: torch.Tensor, total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Update the running maximum score and the sum of exp(score − maximum), both `(rows, 1)` float32.

    Online softmax: Milakov and Gimelshein (2018), arXiv 1805.02867.

    Args:
        logits: a block `(rows, block)`.
        bias: its bias `(block,)` or None.
        maximum, total: values of the previous blocks.
    """
    scores = _scores(logits, bias)
    new_maximum = torch.maximum(maximum, scores.amax(-1, keepdim=True))
    return new_maximum, total * (maximum - new_maximum).exp() + (scores - new_maximum).exp().sum(-1, keepdim=True)


def _probabilities(logits: torch.Tensor, bias: torch.Tensor | None, log_normalizer: torch.Tensor) -> torch.Tensor:
    """Softmax of a block of logits `(rows, block)`, in their dtype, given the log-normalizer `(rows, 1)`."""
    return (_scores(logits, bias) - log_normalizer).exp().to(logits.dtype)


@cache
def _compiled_steps() -> tuple[_UpdateNormalizer, _Probabilities]:
    return torch.compile(_update_normalizer, dynamic=True), torch.compile(_probabilities, dynamic=True)


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
        steps: tuple[_UpdateNormalizer, _Probabilities],
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
        slices = [slice(start, start + block) for start in range(0, len(weight), block)]
        blocks: _Blocks = [(columns, None if bias is None else bias[columns]) for columns in slices]
        update_normalizer, probabilities = steps
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(device_type, enabled=False):
            for rows in _chunks(len(labels), chunk):
                chunk_hidden, targets = hidden[rows].to(dtype), labels[rows]
                logits, target_log_probs, log_normalizer = _chunk_logits(
                    chunk_hidden, weight, blocks, targets, update_normalizer, keep=needs_gradient
                )
                loss -= target_log_probs.sum()
                all_rows = torch.arange(len(targets), device=targets.device)
                # In reverse order, since the last block is still in the cache.
                for columns, block_bias in reversed(blocks if needs_gradient else []):
                    grad = probabilities(logits.pop(), block_bias, log_normalizer)
                    # d loss / d logits = softmax(logits) − one_hot(labels).
                    column, is_inside = _block_columns(targets, columns, grad.shape[1])
                    target_grad = target_log_probs.expm1().to(dtype)
                    grad[all_rows, column] = torch.where(is_inside, target_grad, grad[all_rows, column])
                    if grad_hidden is not None:
                        grad_hidden[rows] += grad @ weight[columns].to(dtype)
                    if grad_weight is not None:
                        product = grad.T @ chunk_hidden
                        if rows.start:
                            grad_weight[columns] += product
                        else:
                            grad_weight[columns] = product
                    if grad_bias is not None:
                        # A sum over rows as a product accumulates in float32 without a copy.
                        grad_bias[columns] += grad.new_ones(len(grad)) @ grad
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


def _chunk_logits(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    blocks: _Blocks,
    labels: torch.Tensor,
    update_normalizer: _UpdateNormalizer,
    keep: bool,
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Compute the logits of a chunk block by block.

    Args:
        hidden: `(rows, hidden)`.
        weight: `(vocabulary, hidden)`.
        blocks: blocks of the vocabulary.
        labels: `(rows,)`.
        update_normalizer: `_update_normalizer`, possibly compiled.
        keep: whether the logits are needed again.

    Returns:
        The logits of each block (empty unless `keep`), the log-probabilities of the labels `(rows,)` and the logarithm
        of the sum of all exp(score) `(rows, 1)`, the last two in float32.
    """
    kept = []
    maximum = torch.full((len(labels), 1), -torch.inf, device=hidden.device)
    total, label_scores = torch.zeros_like(maximum), torch.zeros_like(maximum)
    for columns, bias in blocks:
        logits = hidden @ weight[columns].to(hidden.dtype).T
        maximum, total = update_normalizer(logits, bias, maximum, total)
        column, is_inside = _block_columns(labels, columns, logits.shape[1])
        scores = _scores(logits.gather(1, column[:, None]), None if bias is None else bias[column, None])
        label_scores = torch.where(is_inside[:, None], scores, label_scores)
        if keep:
            kept.append(logits)
    log_normalizer = maximum + total.log()
    return kept, (label_scores - log_normalizer)[:, 0], log_normalizer


def _block_columns(labels: torch.Tensor, columns: slice, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the column of each label in a block of the vocabulary, clamped, and whether the label is in the block."""
    column = labels - columns.start
    return column.clamp(0, width - 1), (column >= 0) & (column < width)
