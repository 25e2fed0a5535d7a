"""The attention backends by name, and the choice of the one that computes a batch."""

from __future__ import annotations

import torch
from transformers.utils import logging

from .attention import AttentionBackend

# Not `from . import …`, which transformers does not follow when it downloads custom code from the Hub.
from .attention_eager import BACKEND as EAGER
from .attention_flash import BACKEND as FLASH
from .attention_flex import BACKEND as FLEX
from .attention_sdpa import BACKEND as SDPA
from .attention_varlen import BACKEND as VARLEN

logger = logging.get_logger(__name__)

BACKENDS = {
    "eager": EAGER,
    "sdpa": SDPA,
    "varlen": VARLEN,
    "flex_attention": FLEX,
    "flash_attention_2": FLASH,
}


def get_backend(name: str) -> AttentionBackend:
    """Return the backend of an `attn_implementation`.

    Raises:
        ValueError: unknown backend.
    """
    if name not in BACKENDS:
        # transformers' wording.
        raise ValueError(
            f'Specified `attn_implementation="{name}"` is not supported; choose one of {", ".join(BACKENDS)}.'
        )
    return BACKENDS[name]


def require_backend(name: str) -> None:
    """Check that a backend exists and is installed.

    Raises:
        ValueError: unknown backend.
        ImportError: a required package is not installed.
    """
    missing = get_backend(name).missing_requirement()
    if missing is not None:
        raise ImportError(f"attn_implementation={name!r} needs {missing}.")


def choose_backend(name: str | None, device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float) -> str:
    """Choose the backend that computes a batch.

    Args:
        name: `attn_implementation`, or None for `varlen` where it is supported and `sdpa` elsewhere.
        device, dtype: device and dtype of query, key and value.
        head_dim: dimensions of a head.
        dropout: probability of dropping an attention weight in this batch.

    Returns:
        `name`, or `sdpa` with a warning if that backend does not support the batch.

    Raises:
        ValueError: unknown backend.
    """
    if name is None:
        is_supported = VARLEN.missing_requirement() is None
        is_supported = is_supported and VARLEN.unsupported_reason(device, dtype, head_dim, dropout) is None
        return "varlen" if is_supported else "sdpa"
    reason = get_backend(name).unsupported_reason(device, dtype, head_dim, dropout)
    if reason is None:
        return name
    logger.warning_once(f"attn_implementation={name!r} does not support this batch: {reason}. Using 'sdpa'.")
    return "sdpa"
