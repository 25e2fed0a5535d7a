"""One dense gradient of the tied vocabulary matrix: on a CPU a second one is up to a tenth of a training step.

The loss has a gradient of the whole matrix, the look-up only of the rows of a batch's tokens. Autograd adds a sparse
gradient to a dense one in place where the sparse one is there first; otherwise it writes a third matrix. Of what is
ready, the backward pass takes first what was made last: what is made before the look-up comes after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def sparse_lookups(embedding: nn.Module, weight: torch.Tensor | None) -> Iterator[torch.Tensor | None]:
    """Look-ups within have sparse gradients, where the loss has a dense one of the same matrix for them to join.

    A backward pass that leaves out the loss, and every other product with the matrix, leaves it a sparse gradient.

    Args:
        embedding: what looks up.
        weight: the matrix that the loss multiplies by, `(vocabulary, hidden)`, or None without a loss.

    Yields:
        The matrix to multiply by.
    """
    if weight is None or not _is_shared(embedding, weight):
        yield weight
        return
    embedding.sparse = True  # type: ignore[assignment]
    try:
        yield _Later.apply(weight)
    finally:
        embedding.sparse = False  # type: ignore[assignment]


def _is_shared(embedding: nn.Module, weight: torch.Tensor) -> bool:
    """Whether both add to the gradient of one parameter, on a CPU and outside of graphs that torch.compile makes."""
    if type(embedding) is not nn.Embedding or embedding.weight is not weight or embedding.sparse:
        return False
    is_trained = torch.is_grad_enabled() and weight.requires_grad and weight.is_leaf
    return is_trained and weight.device.type == "cpu" and not torch.compiler.is_compiling()


class _Later(torch.autograd.Function):
    """The same matrix, whose gradient waits for those of everything made after it."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor) -> torch.Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad
