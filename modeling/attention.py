"""The choice of the attention backend. Each backend is two functions of one signature:

`mask(layout, window, dtype)` is called once per forward and kind of layer, and `attend` in every layer:

    attend(query, key, value, layout, mask, window, scale, dropout) -> (out, weights)

* query, key, value, out: `(total_tokens, heads, head_dim)`.
* layout: the documents of the packed row; attention never crosses from one into another.
* mask: what the backend's own `mask` returned.
* window: a token sees this many tokens to either side, inclusive; None for global layers.
* scale: factor on the scores, usually head_dim ** -0.5.
* dropout: probability of dropping an attention weight; 0 outside training.
* weights: `(batch, heads, length, length)` from `eager`, None from all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging

# Not `from . import …`, which transformers does not follow when it fetches custom code from a repository.
from .attention_eager import attend as attend_eager
from .attention_eager import mask as mask_eager
from .attention_flash import attend as attend_flash
from .attention_flash import mask as mask_flash
from .attention_flash import misfit as misfit_flash
from .attention_flash import missing as missing_flash
from .attention_flex import attend as attend_flex
from .attention_flex import mask as mask_flex
from .attention_flex import misfit as misfit_flex
from .attention_sdpa import attend as attend_sdpa
from .attention_sdpa import mask as mask_sdpa
from .attention_varlen import attend as attend_varlen
from .attention_varlen import mask as mask_varlen
from .attention_varlen import misfit as misfit_varlen
from .attention_varlen import missing as missing_varlen

logger = logging.get_logger(__name__)


def _nothing(*_arguments: Any) -> None:
    return None


@dataclass(frozen=True)
class AttentionBackend:
    """One way to compute attention over a packed row."""

    mask: Callable[..., Any]
    attend: Callable[..., Any]
    needs_lengths: bool = False
    """Whether it loops over documents, and so needs their lengths on the host."""
    missing: Callable[[], str | None] = _nothing
    """`missing()`: what has to be installed before it can run anywhere, or None."""
    misfit: Callable[[torch.device, torch.dtype, int, float], str | None] = _nothing
    """`misfit(device, dtype, head_dim, dropout)`: why it cannot compute such a batch, or None."""


BACKENDS = {
    "eager": AttentionBackend(mask_eager, attend_eager),
    "sdpa": AttentionBackend(mask_sdpa, attend_sdpa, needs_lengths=True),
    "varlen": AttentionBackend(mask_varlen, attend_varlen, missing=missing_varlen, misfit=misfit_varlen),
    "flex_attention": AttentionBackend(mask_flex, attend_flex, misfit=misfit_flex),
    "flash_attention_2": AttentionBackend(mask_flash, attend_flash, missing=missing_flash, misfit=misfit_flash),
}

_FALLBACK = "sdpa"


def get_backend(name: str) -> AttentionBackend:
    """The backend of that `attn_implementation`.

    Raises:
        ValueError: no such backend.
    """
    if name not in BACKENDS:
        raise ValueError(f"attn_implementation={name!r} is not one of {', '.join(BACKENDS)}.")
    return BACKENDS[name]


def require_backend(name: str) -> None:
    """Whether a backend is there to be chosen.

    Raises:
        ValueError: no such backend.
        ImportError: what it needs is not installed.
    """
    missing = get_backend(name).missing()
    if missing is not None:
        raise ImportError(f"attn_implementation={name!r} needs {missing}.")


def choose_backend(name: str | None, device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float) -> str:
    """The backend that computes a batch.

    Args:
        name: `attn_implementation`, or None for the fastest that is there: `varlen` where it can, else `sdpa`.
        device, dtype: those of query, key and value.
        head_dim: dimensions of a head.
        dropout: probability of dropping an attention weight in this batch.

    Returns:
        That name, or `sdpa`, with a warning, where the backend cannot compute such a batch.
    """
    if name is None:
        varlen = BACKENDS["varlen"]
        fits = varlen.missing() is None and varlen.misfit(device, dtype, head_dim, dropout) is None
        return "varlen" if fits else _FALLBACK
    reason = get_backend(name).misfit(device, dtype, head_dim, dropout)
    if reason is None:
        return name
    logger.warning_once(f"attn_implementation={name!r} cannot compute this batch: {reason}. Using {_FALLBACK!r}.")
    return _FALLBACK
