"""Masked-LM loss straight from hidden states, without ever holding a (tokens, vocabulary) matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Rows whose logits exist at one time. Fewer save memory, but each chunk adds to the whole gradient of the vocabulary
# matrix.
CHUNK, CHUNK_ON_GPUS = 2048, 4096
# Tokens of the vocabulary that are worked on at a time: on a CPU so few that their logits stay in its cache from one
# step to the next, on a GPU enough to fill it.
BLOCK, BLOCK_ON_GPUS = 2048, 16384

_Steps = tuple[
    Callable[..., tuple[torch.Tensor, torch.Tensor]],
    Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor], torch.Tensor],
]


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
    if chunk is None:
        chunk = CHUNK_ON_GPUS if hidden.is_cuda else CHUNK
    if block is None:
        block = BLOCK_ON_GPUS if hidden.is_cuda else BLOCK
    steps = _compiled_steps() if compiled else (_take_in, _probabilities)
    total = _LinearCrossEntropy.apply(hidden, weight, bias, labels, chunk, block, steps)
    divisor = max(1, len(labels)) if num_items_in_batch is None else num_items_in_batch
    return total / divisor


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
def _compiled_steps() -> _Steps:
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
        steps: _Steps,
    ) -> torch.Tensor:
        device_type = hidden.device.type
        autocast = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if autocast else weight.dtype
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        wants_gradient = wants_hidden or wants_weight or wants_bias
        # Sums over chunks and blocks are kept in float32 whatever the parameters' dtype.
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if wants_hidden else None
        # Written by the first chunk, if there is one.
        grad_weight = torch.empty_like(weight, dtype=torch.float32) if wants_weight else None
        if grad_weight is not None and not len(labels):
            grad_weight.zero_()
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants_bias else None
        # A label outside the vocabulary is an error here; further on it would only be in none of the blocks.
        weight[:, 0].gather(0, labels)
        blocks = [slice(begin, begin + block) for begin in range(0, len(weight), block)]
        take_in, probabilities = steps
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(device_type, enabled=False):
            biases = [None if bias is None else bias[columns] for columns in blocks]
            for rows in _chunks(len(labels), chunk):
                cast_hidden = hidden[rows].to(dtype)
                every_row = torch.arange(len(cast_hidden), device=hidden.device)
                kept: list[torch.Tensor] = []
                highest = loss.new_full((len(cast_hidden), 1), -torch.inf)
                total, of_target = torch.zeros_like(highest), torch.zeros_like(highest[:, 0])
                for columns, part_bias in zip(blocks, biases, strict=True):
                    logits = cast_hidden @ weight[columns].to(dtype).T
                    highest, total = take_in(logits, part_bias, highest, total)
                    column, inside = _places(labels[rows], columns, logits.shape[1])
                    score = logits[every_row, column].float()
                    if part_bias is not None:
                        score += part_bias[column]
                    of_target = torch.where(inside, score, of_target)
                    if wants_gradient:
                        kept.append(logits)
                normaliser = highest + total.log()
                of_target -= normaliser[:, 0]
                loss -= of_target.sum()
                for columns, part_bias in zip(blocks if wants_gradient else (), biases, strict=False):
                    grad = probabilities(kept.pop(0), part_bias, normaliser)
                    # d loss / d logits = softmax(logits) − one_hot(labels).
                    column, inside = _places(labels[rows], columns, grad.shape[1])
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


def _places(labels: torch.Tensor, columns: slice, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where labels stand in a block of the vocabulary: a column of it, and whether the label is inside at all."""
    column = labels - columns.start
    return column.clamp(0, width - 1), (column >= 0) & (column < width)
