"""Long rows computed a piece at a time, so that what a layer holds in between stays small."""

from __future__ import annotations

from collections.abc import Callable

import torch

# Tokens: as many as keep matrix products busy, and few enough that what is between them stays near the cores.
_PIECE = 1024


def bounds(rows: torch.Tensor, multiple: int = 1, dropout: float = 0.0) -> list[tuple[int, int]]:
    """Where the pieces of `(rows, …)` begin and end: a single piece where more would cost time.

    More than one there are on a CPU without gradients only: a GPU wants more work at a time, and a backward pass would
    keep everything.

    Args:
        rows: the tensor.
        multiple: of this many rows each piece but the last is.
        dropout: probability of dropping something of them. Pieces would be dropped from otherwise than the whole,
            which a checkpoint computes again.
    """
    count = len(rows)
    whole = rows.device.type != "cpu" or torch.is_grad_enabled() or bool(dropout)
    # A graph would have the number of pieces in it.
    if whole or torch.compiler.is_compiling():
        return [(0, count)]
    length = max(1, _PIECE // multiple) * multiple
    return [(start, min(start + length, count)) for start in range(0, max(1, count), length)]


def in_pieces(
    compute: Callable[..., tuple[torch.Tensor, ...]], *rows: torch.Tensor, dropout: float = 0.0
) -> tuple[torch.Tensor, ...]:
    """What `compute(*rows)` gives, with less memory where that costs no time.

    Args:
        compute: a function of tensors `(rows, …)` that treats each row by itself, and returns tensors `(rows, …)`.
        rows: tensors of as many rows.
        dropout: as for `bounds`.
    """
    pieces = bounds(rows[0], dropout=dropout)
    if len(pieces) == 1:
        return compute(*rows)
    whole: list[torch.Tensor] = []

    # A function, at whose end the piece is let go.
    def fill(start: int, stop: int) -> None:
        found = compute(*(tensor[start:stop] for tensor in rows))
        if not whole:
            whole.extend(part.new_empty((len(rows[0]), *part.shape[1:])) for part in found)
        for tensor, part in zip(whole, found, strict=True):
            tensor[start:stop] = part

    for piece in pieces:
        fill(*piece)
    return tuple(whole)
