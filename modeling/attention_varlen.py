"""The default on GPUs: torch's own `varlen_attn`, FlashAttention-2 for packed documents and windows with no package.

`torch.nn.attention.activate_flash_attention_impl("FA3")`, or "FA4", called by the user puts that kernel in its place
where its package is installed.
"""

from __future__ import annotations

from typing import Any

import torch

from .attention_flash import mask as mask
from .attention_flash import misfit as misfit_flash
from .attention_sdpa import attend as attend_sdpa
from .layout import PackedLayout

_HAS_WINDOWS = torch.__version__ >= "2.11"


def missing() -> str | None:
    """What has to be installed, or None."""
    return None if _HAS_WINDOWS else f"torch 2.11 or later, and this is {torch.__version__}"


def misfit(device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float) -> str | None:
    """Why the kernel cannot compute such a batch, or None."""
    if dropout:
        return "it has no dropout of attention weights"
    reason = misfit_flash(device, dtype, head_dim, dropout)
    if reason is None and (torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0)):
        return "it wants an NVIDIA GPU of compute capability 8.0 or higher"
    return reason


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    mask: torch.Tensor | None,
    window: int | None,
    scale: float,
    dropout: float,
) -> tuple[torch.Tensor, None]:
    """See `attention` for the arguments, `misfit` for what they may be."""
    if len(query) == 0:
        return query, None
    if mask is not None:
        return attend_sdpa(query, key, value, layout, mask, window, scale, dropout)
    from torch.nn.attention.varlen import varlen_attn

    out: Any = varlen_attn(
        query,
        key,
        value,
        layout.cu_seqlens,
        layout.cu_seqlens,
        layout.max_length,
        layout.max_length,
        scale=scale,
        window_size=(-1, -1) if window is None else (window, window),
    )
    return out, None
