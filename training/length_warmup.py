"""Length warm-up: in the first steps of a run, tokens attend only within short pieces of their documents."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .recipe.arguments import PretrainingArguments


def longest_piece(recipe: PretrainingArguments, step: int) -> int:
    """The largest number of tokens that attend to each other in an optimizer step.

    It doubles from `initial_length` after equal numbers of steps, and is `sequence_length` after the warm-up.

    Args:
        recipe: the recipe.
        step: number of completed optimizer steps.
    """
    if step >= recipe.length_warmup_steps:
        return recipe.sequence_length
    doublings = math.ceil(math.log2(recipe.sequence_length / recipe.initial_length))
    return recipe.initial_length * 2 ** (step * doublings // recipe.length_warmup_steps)


def divided(lengths: npt.NDArray[np.int64], longest: int) -> npt.NDArray[np.int64]:
    """Divides pieces into the fewest parts of at most `longest` tokens, whose lengths differ by at most one.

    Args:
        lengths: `(pieces,)` tokens of each piece, at least one.
        longest: maximum length of a part.

    Returns:
        `(parts,)` tokens of each part, in order.

    Example:
        >>> divided(np.array([3, 9]), 4).tolist()
        [3, 3, 3, 3]
    """
    counts = -(-lengths // longest)
    firsts = np.cumsum(counts) - counts
    # The number of a part within its piece.
    numbers = np.arange(counts.sum()) - np.repeat(firsts, counts)
    short, rest = np.divmod(lengths, counts)
    return np.repeat(short, counts) + (numbers < np.repeat(rest, counts))


def with_lengths(batch: dict[str, Any], lengths: npt.NDArray[np.int64]) -> dict[str, Any]:
    """A batch with other boundaries between the tokens that attend to each other.

    Args:
        batch: a batch of `BatchStream`, on the host.
        lengths: `(parts,)` numbers of tokens between the boundaries.
    """
    boundaries = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return {**batch, "cu_seqlens": torch.from_numpy(boundaries), "max_seqlen": int(lengths.max())}
