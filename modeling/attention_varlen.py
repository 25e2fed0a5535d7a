"""FlashAttention-2 through the flash-attn package: packed documents and windows in one kernel, on CUDA."""

from __future__ import annotations

import torch

from . import attention_sdpa
from .layout import PackedLayout


def mask(layout: PackedLayout, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
    """None: the kernel reads the documents' boundaries itself.

    Only where an attention mask has holes does a window over columns differ from the kernel's window over tokens; such
    a local layer takes the sdpa backend's path and mask.
    """
    return attention_sdpa.mask(layout, window, dtype) if layout.has_holes else None


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
    """See `attention` for the arguments. Tensors must be bf16 or fp16, as the kernel's."""
    if mask is not None:
        return attention_sdpa.attend(query, key, value, layout, mask, window, scale, dropout)
    from flash_attn import flash_attn_varlen_func

    out = flash_attn_varlen_func(
        query,
        key,
        value,
        cu_seqlens_q=layout.cu_seqlens,
        cu_seqlens_k=layout.cu_seqlens,
        max_seqlen_q=layout.max_length,
        max_seqlen_k=layout.max_length,
        dropout_p=dropout,
        softmax_scale=scale,
        window_size=(-1, -1) if window is None else (window, window),
    )
    return out, None
