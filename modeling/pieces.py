"""Long rows computed a piece at a time, so that what a layer holds in between stays small."""

from __future__ import annotations

from collections.abc import Callable

import torch

# Tokens: as many as keep matrix products busy, and few enough that what is between them stays near the cores.
_PIECE = 1024


def in_pieces(compute: Callable[..., torch.Tensor], *rows: torch.Tensor) -> torch.Tensor:
    """What `compute(*rows)` gives, with less memory where that costs no time.

    That is on a CPU without gradients: a GPU wants more work at a time, and a backward pass would keep everything.

    Args:
        compute: a function of tensors `(rows, …)` that treats each row by itself, and returns `(rows, …)`.
        rows: tensors of as many rows.
    """
    first = rows[0]
    whole = len(first) <= _PIECE or first.device.type != "cpu" or torch.is_grad_enabled()
    # A graph would have the number of pieces in it.
    if whole or torch.compiler.is_compiling():
        return compute(*rows)
    return torch.cat([compute(*piece) for piece in zip(*(tensor.split(_PIECE) for tensor in rows), strict=True)])
