"""Masked-LM loss straight from hidden states, without ever holding a (tokens, vocabulary) matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

# Rows whose logits exist at one time. Fewer save memory, but each chunk adds to the whole gradient of the vocabulary
# matrix.
CHUNK, CHUNK_ON_GPUS = 2048, 4096
# Logits that are worked on at a time: on a CPU so few that they stay in its cache from one step to the next, on a GPU
# enough to fill it.
BLOCK, BLOCK_ON_GPUS = 5 << 19, 1 << 26
_BLOCK_MULTIPLE = 1024

_TakeIn = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
_Probabilities = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor], torch.Tensor]
# Columns of a block of the vocabulary, and its bias.
_Blocks = list[tuple[slice, torch.Tensor | None]]


# A loop over a number of chunks that depends on the labels is nothing to compile.
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
    """Cross-entropy of `softmax(hidden @ weight.T + bias)` against `labels`.

    Of `chunk` rows at a time all logits are computed, block by block of the vocabulary; a second walk over the blocks
    turns each into its gradient and uses it up. So at most `(chunk, vocabulary)` values exist at once, in the dtype of
    the products, which is autocast's where it is on, and `(chunk, block)` in float32. The backward pass scales the
    gradients in place, so it can run once: a second one, after `retain_graph=True`, is an error of autograd's.

    Args:
        hidden: `(rows, hidden)`, only rows that have a label.
        weight: `(vocabulary, hidden)`.
        bias: `(vocabulary,)` or None.
        labels: `(rows,)` int64 in [0, vocabulary).
        num_items_in_batch: divisor of the summed loss (Trainer: labelled tokens of the whole global batch); the number
            of rows where None.
        chunk: rows per chunk at most; by default what suits the device.
        block: tokens of the vocabulary per block; by default what suits the device.
        compiled: whether torch.compile fuses what is done to the logits, which then are read twice and written once.

    Returns:
        float32 scalar; 0, with zero gradients, where there are no rows and no divisor.

    Raises:
        RuntimeError: a label outside the vocabulary.
    """
    if not torch.is_grad_enabled():
        # The function below, inside of which no gradients are ever on, would compute them all the same.
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    if chunk is None:
        chunk = CHUNK_ON_GPUS if hidden.is_cuda else CHUNK
    if block is None:
        tokens = (BLOCK_ON_GPUS if hidden.is_cuda else BLOCK) // max(1, min(len(labels), chunk))
        block = max(1, tokens // _BLOCK_MULTIPLE) * _BLOCK_MULTIPLE
    steps = _compiled_steps() if compiled else (_take_in, _probabilities)
    total = _LinearCrossEntropy.apply(hidden, weight, bias, labels, chunk, block, steps)
    return total / _divisor(labels, num_items_in_batch)


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """The same loss of logits `(rows, vocabulary)`, for a vocabulary layer that is more than a matrix."""
    total = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
    return total / _divisor(labels, num_items_in_batch)


def _divisor(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    return max(1, len(labels)) if num_items_in_batch is None else num_items_in_batch


def _scores(logits: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # The bias is added in float32, not to a product that was rounded to the dtype of the logits.
    return logits.float() if bias is None else logits.float() + bias


def _take_in(
    logits: torch.Tensor, bias: torch.Tensor | None, highest: torch.Tensor, total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest score so far and the sum of exp(score − highest), both `(rows, 1)` float32, with a block of logits
    `(rows, block)` and its bias `(block,)` taken in. Milakov and Gimelshein (2018), "Online normalizer calculation for
    softmax"."""
    scores = _scores(logits, bias)
    higher = torch.maximum(highest, scores.amax(-1, keepdim=True))
    return higher, total * (highest - higher).exp() + (scores - higher).exp().sum(-1, keepdim=True)


def _probabilities(logits: torch.Tensor, bias: torch.Tensor | None, normaliser: torch.Tensor) -> torch.Tensor:
    """Of a block of logits `(rows, block)`, in their dtype, given the logarithm of all exp(score) `(rows, 1)`."""
    return (_scores(logits, bias) - normaliser).exp().to(logits.dtype)


@cache
def _compiled_steps() -> tuple[_TakeIn, _Probabilities]:
    return torch.compile(_take_in, dynamic=True), torch.compile(_probabilities, dynamic=True)


def _chunks(rows: int, most: int) -> Iterator[slice]:
    """As few chunks as may be, of one size: a short one would cost more than its share."""
    count = -(-rows // most)
    for number in range(count):
        yield slice(number * rows // count, (number + 1) * rows // count)


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
        block: int,
        steps: tuple[_TakeIn, _Probabilities],
    ) -> torch.Tensor:
        device_type = hidden.device.type
        autocast = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if autocast else weight.dtype
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        wants_gradient = wants_hidden or wants_weight or wants_bias
        # Sums over chunks and blocks are kept in float32 whatever the parameters' dtype.
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if wants_hidden else None
        # Written by the first chunk, if there is one.
        grad_weight = _matrix_like(weight) if wants_weight else None
        if grad_weight is not None and not len(labels):
            grad_weight.zero_()
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants_bias else None
        # A label outside the vocabulary is an error here; further on it would only be in none of the blocks.
        weight[:, 0].gather(0, labels)
        slices = [slice(begin, begin + block) for begin in range(0, len(weight), block)]
        blocks: _Blocks = [(columns, None if bias is None else bias[columns]) for columns in slices]
        take_in, probabilities = steps
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(device_type, enabled=False):
            for rows in _chunks(len(labels), chunk):
                cast_hidden, target = hidden[rows].to(dtype), labels[rows]
                logits, of_target, normaliser = _walk(cast_hidden, weight, blocks, target, take_in, wants_gradient)
                loss -= of_target.sum()
                every_row = torch.arange(len(target), device=target.device)
                # Backwards: the last block is still near the cores.
                for columns, block_bias in reversed(blocks if wants_gradient else []):
                    grad = probabilities(logits.pop(), block_bias, normaliser)
                    # d loss / d logits = softmax(logits) − one_hot(labels).
                    column, inside = _places(target, columns, grad.shape[1])
                    grad[every_row, column] = torch.where(inside, of_target.expm1().to(dtype), grad[every_row, column])
                    if grad_hidden is not None:
                        grad_hidden[rows] += grad @ weight[columns].to(dtype)
                    if grad_weight is not None:
                        part = grad.T @ cast_hidden
                        if rows.start:
                            grad_weight[columns] += part
                        else:
                            grad_weight[columns] = part
                    if grad_bias is not None:
                        # A sum over rows as a product, which adds in float32, rounds once and takes no copy.
                        grad_bias[columns] += grad.new_ones(len(grad)) @ grad
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden, weight, bias)]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place: a second copy of the largest gradient would be the peak of the memory.
        scaled = [
            None if gradient is None else gradient.mul_(grad_total).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *scaled, None, None, None, None


def _matrix_like(weight: torch.Tensor) -> torch.Tensor:
    """float32 of the same shape and device, not initialised."""
    if weight.device.type == "cpu":
        # Hundreds of megabytes, which NumPy asks Linux for in huge pages: small ones take several times as long.
        return torch.from_numpy(np.empty(weight.shape, dtype=np.float32))
    return torch.empty_like(weight, dtype=torch.float32)


def _walk(
    hidden: torch.Tensor, weight: torch.Tensor, blocks: _Blocks, labels: torch.Tensor, take_in: _TakeIn, keep: bool
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Of rows `(rows, hidden)` and their labels: the logits of each block, if they are to be kept, the labels'
    log-probabilities `(rows,)` and the logarithm of all exp(score) `(rows, 1)`, both float32."""
    kept = []
    highest = torch.full((len(labels), 1), -torch.inf, device=hidden.device)
    total, of_label = torch.zeros_like(highest), torch.zeros_like(highest)
    for columns, bias in blocks:
        logits = hidden @ weight[columns].to(hidden.dtype).T
        highest, total = take_in(logits, bias, highest, total)
        column, inside = _places(labels, columns, logits.shape[1])
        score = _scores(logits.gather(1, column[:, None]), None if bias is None else bias[column, None])
        of_label = torch.where(inside[:, None], score, of_label)
        if keep:
            kept.append(logits)
    normaliser = highest + total.log()
    return kept, (of_label - normaliser)[:, 0], normaliser


def _places(labels: torch.Tensor, columns: slice, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where labels stand in a block of the vocabulary: a column of it, and whether the label is inside at all."""
    column = labels - columns.start
    return column.clamp(0, width - 1), (column >= 0) & (column < width)
