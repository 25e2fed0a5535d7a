"""Masked-LM loss straight from hidden states, without ever holding a (tokens, vocabulary) matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

# Rows of logits that exist at one time. Fewer save memory, but every chunk reads and writes the whole gradient of the
# vocabulary matrix once, and a GPU wants more work at a time.
CHUNK, CHUNK_ON_GPUS = 1024, 4096
# Rows of the vocabulary matrix whose gradient is added to at a time.
_SLAB = 4096


# A loop over a number of chunks that depends on the labels is nothing to compile.
@torch.compiler.disable
def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    chunk: int | None = None,
    compiled: bool = False,
) -> torch.Tensor:
    """Cross-entropy of `softmax(hidden @ weight.T + bias)` against `labels`.

    Logits are computed for `chunk` rows at a time, and their gradient in the same pass, so that at most
    `(chunk, vocabulary)` values exist at once, in float32. Matrix products run in autocast's dtype where it is on.
    The backward pass scales those gradients in place, so it can run once: a second one, after `retain_graph=True`, is
    an error of autograd's.

    Args:
        hidden: `(rows, hidden)`, only rows that have a label.
        weight: `(vocabulary, hidden)`.
        bias: `(vocabulary,)` or None.
        labels: `(rows,)` int64 in [0, vocabulary).
        num_items_in_batch: divisor of the summed loss (Trainer: labelled tokens of the whole global batch); the number
            of rows where None.
        chunk: rows per chunk at most; by default what suits the device.
        compiled: whether torch.compile fuses what is done to the logits, which then are read twice and written once.

    Returns:
        float32 scalar; 0, with zero gradients, where there are no rows and no divisor.
    """
    if chunk is None:
        chunk = CHUNK_ON_GPUS if hidden.is_cuda else CHUNK
    softmax = _compiled_softmax() if compiled else _softmax
    total = _LinearCrossEntropy.apply(hidden, weight, bias, labels, chunk, softmax)
    divisor = max(1, len(labels)) if num_items_in_batch is None else num_items_in_batch
    return total / divisor


def _softmax(
    logits: torch.Tensor, bias: torch.Tensor | None, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `(rows, vocabulary)`, which are lost, before their bias `(vocabulary,)`, and targets `(rows, 1)` →
    log-probabilities of the targets, `(rows, 1)` float32, and all probabilities in the dtype of the logits."""
    scores = logits.float()
    if bias is not None:
        scores = scores + bias
    normaliser = scores.logsumexp(-1, keepdim=True)
    of_target = scores.gather(1, target) - normaliser
    return of_target, scores.sub_(normaliser).exp_().to(logits.dtype)


@cache
def _compiled_softmax() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    return torch.compile(_softmax, dynamic=True)


def _chunks(rows: int, most: int) -> Iterator[slice]:
    """As few chunks as may be, of one size: a short one would cost more than its share."""
    count = -(-rows // most)
    for number in range(count):
        yield slice(number * rows // count, (number + 1) * rows // count)


def _add(total: torch.Tensor, part: torch.Tensor) -> None:
    """`total += part`. On a CPU torch first takes a copy of a whole part that has another dtype."""
    slab = len(total) if total.is_cuda else _SLAB
    for own, added in zip(total.split(slab), part.split(slab), strict=True):
        own += added


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed loss; the gradients are ready when the forward pass ends."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        chunk: int,
        softmax: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    ) -> torch.Tensor:
        device_type = hidden.device.type
        autocast = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if autocast else weight.dtype
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # Sums over chunks are kept in float32 whatever the parameters' dtype.
        grad_weight: torch.Tensor | None = None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants_bias else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(device_type, enabled=False):
            cast_weight = weight.to(dtype)
            for rows in _chunks(len(labels), chunk):
                # Not a view of the labels, or it would be compiled anew where they are more than a chunk.
                cast_hidden, target = hidden[rows].to(dtype), labels[rows, None].clone()
                # The bias is added in float32 with the softmax, not to a product that was rounded to dtype.
                logits = cast_hidden @ cast_weight.T
                if not any(ctx.needs_input_grad):
                    logits = logits.float() if bias is None else logits + bias.float()
                    total += nn.functional.cross_entropy(logits, target[:, 0], reduction="sum")
                    continue
                of_target, grad = softmax(logits, bias, target)
                total -= of_target.sum()
                # d loss / d logits = softmax(logits) − one_hot(labels). Not scatter_, which takes a copy of all.
                grad[torch.arange(len(grad), device=grad.device), target[:, 0]] = of_target[:, 0].expm1().to(dtype)
                if grad_bias is not None:
                    # A sum over rows as a product, which takes no copy in float32: it adds in float32 and rounds once.
                    grad_bias += grad.new_ones(len(grad)) @ grad
                if grad_hidden is not None:
                    grad_hidden[rows] = grad @ cast_weight
                if wants_weight and grad_weight is None:
                    grad_weight = (grad.T @ cast_hidden).float()
                elif grad_weight is not None and dtype == torch.float32:
                    grad_weight.addmm_(grad.T, cast_hidden)
                elif grad_weight is not None:
                    _add(grad_weight, grad.T @ cast_hidden)
        if wants_weight and grad_weight is None:
            grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else grad_hidden * grad_total.to(grad_hidden.dtype),
            # In place: a second copy of the largest gradient would be the peak of the memory.
            None if grad_weight is None else grad_weight.mul_(grad_total).to(weight_dtype),
            None if grad_bias is None else (grad_bias * grad_total).to(bias_dtype),
            None,
            None,
            None,
        )
