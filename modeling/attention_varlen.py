"""FlashAttention-2 through the flash-attn package: packed documents and windows in one kernel, on CUDA."""

from __future__ import annotations

import torch

from .attention_sdpa import attend as attend_sdpa
from .attention_sdpa import mask as mask_sdpa
from .layout import PackedLayout


def mask(layout: PackedLayout, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
    """None: the kernel reads the documents' boundaries itself.

    Only where an attention mask has holes does a window over columns differ from the kernel's window over tokens; such
    a local layer takes the sdpa backend's path and mask.
    """
    return mask_sdpa(layout, window, dtype) if layout.has_holes else None


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
    """See `attention` for the arguments. Tensors must be bf16 or fp16, as the kernel's.

    Raises:
        ImportError: the flash-attn package is missing.
    """
    if mask is not None:
        return attend_sdpa(query, key, value, layout, mask, window, scale, dropout)
    # A bare import would count as a requirement of the custom code on the Hub.
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError as error:
        raise ImportError(
            "attn_implementation='flash_attention_2' needs the flash-attn package: "
            "pip install 'llm-jp-modernbert[flash]'."
        ) from error

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
