"""One dense gradient of the tied vocabulary matrix: on a CPU a second one is up to a tenth of a training step.

The loss has a gradient of the whole matrix, the look-up only of the rows of a batch's tokens. Autograd adds a sparse
gradient to a dense one in place where the sparse one is there first; otherwise it writes a third matrix. Of what is
ready, the backward pass takes first what was made last: what is made before the look-up comes after it.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import nn

from .plain import is_plain


def shares_gradient(embedding: nn.Module, weight: torch.Tensor) -> TypeGuard[nn.Embedding]:
    """Whether look-ups and a loss that multiplies by `weight` add to the gradient of one parameter, on a CPU, outside
    of graphs that torch.compile makes."""
    if not is_plain(embedding, nn.Embedding) or embedding.weight is not weight:
        return False
    if embedding.sparse or embedding.scale_grad_by_freq or embedding.max_norm is not None:
        return False
    is_trained = torch.is_grad_enabled() and weight.requires_grad and weight.is_leaf
    return is_trained and weight.device.type == "cpu" and not torch.compiler.is_compiling()


def look_up(embedding: nn.Embedding, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings whose gradient joins that of the loss; without the loss in the backward pass it is a dense one.

    Args:
        embedding: of which `shares_gradient` is true.
        ids: of any shape.

    Returns:
        The embeddings `(*ids.shape, hidden)`, and the matrix for the loss to multiply by, `(vocabulary, hidden)`.
    """
    loss = _Loss()
    # Of the backward pass this comes last, then the look-up, and first, right after the loss, what is made after it.
    weight = _Noting.apply(embedding.weight, loss, False)
    embeds = _LookUp.apply(embedding.weight, ids, embedding.padding_idx, loss)
    return embeds, _Noting.apply(weight, loss, True)


class _Loss:
    """Of one forward pass: whether the backward pass under way has been through the loss."""

    has_gradient = False


class _Noting(torch.autograd.Function):
    """The same matrix; when its gradient passes, it is noted whether that of the loss is on its way."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, loss: _Loss, has_gradient: bool) -> torch.Tensor:
        ctx.loss, ctx.has_gradient = loss, has_gradient
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        ctx.loss.has_gradient = ctx.has_gradient
        return grad, None, None


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, ids: torch.Tensor, padding_idx: int | None, loss: _Loss
    ) -> torch.Tensor:
        ctx.save_for_backward(ids)
        ctx.rows, ctx.padding, ctx.loss = len(weight), -1 if padding_idx is None else padding_idx, loss
        return nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (ids,) = ctx.saved_tensors
        # A sparse one cannot be differentiated once more.
        is_sparse = ctx.loss.has_gradient and not torch.is_grad_enabled()
        of_rows = torch.ops.aten.embedding_backward(grad, ids, ctx.rows, ctx.padding, False, is_sparse)
        return of_rows, None, None, None
