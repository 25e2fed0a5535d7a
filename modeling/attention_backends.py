"""The attention backends by name, and the choice of the one that computes a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from transformers.utils import logging

from .attention import AttentionBackend

# Not `from . import …`, which transformers does not follow when it downloads custom code from the Hub.
from .attention_eager import BACKEND as EAGER
from .attention_flash import BACKEND as FLASH
from .attention_flash3 import BACKEND as FLASH3
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
    "flash_attention_3": FLASH3,
}
LAYER_TYPES = ("full_attention", "sliding_attention")


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


def require_backend(implementation: str | Mapping[str, str]) -> None:
    """Check that a backend, or the backend of each layer type, exists and is installed.

    Raises:
        ValueError: unknown backend or layer type.
        ImportError: a required package is not installed.
    """
    if isinstance(implementation, Mapping):
        unknown = [kind for kind in implementation if kind not in LAYER_TYPES]
        if unknown:
            raise ValueError(f"attn_implementation: {unknown[0]!r} is not one of {', '.join(LAYER_TYPES)}.")
    for name in implementation.values() if isinstance(implementation, Mapping) else [implementation]:
        missing = get_backend(name).missing_requirement()
        if missing is not None:
            raise ImportError(f"attn_implementation={name!r} needs {missing}.")


def choose_backends(
    implementation: str | Mapping[str, str] | None,
    layer_types: Iterable[str],
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    dropout: float,
) -> dict[str, str]:
    """Choose the backend of each layer type; see `choose_backend`.

    Args:
        implementation: `attn_implementation`, the same for all layers or a mapping by layer type.
        layer_types: the types of the model's layers.
        device, dtype, head_dim, dropout: see `choose_backend`.
    """
    names = {
        kind: implementation.get(kind) if isinstance(implementation, Mapping) else implementation
        for kind in layer_types
    }
    return {kind: choose_backend(name, device, dtype, head_dim, dropout) for kind, name in names.items()}


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
