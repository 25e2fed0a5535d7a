"""FlashAttention-2 through the flash-attn package: packed documents and windows in one kernel, on CUDA."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from .attention_sdpa import attend as attend_sdpa
from .attention_sdpa import mask as mask_sdpa
from .layout import PackedLayout


def missing() -> str | None:
    """What has to be installed, or None."""
    if find_spec("flash_attn") is not None:
        return None
    return "the flash-attn package: pip install 'llm-jp-modernbert[flash]'"


def misfit(device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float) -> str | None:
    """Why the kernel cannot compute such a batch, or None."""
    if device.type != "cuda":
        return f"it runs on CUDA devices, not on {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 or bfloat16, not in {str(dtype).removeprefix('torch.')}"
    if head_dim > 256 or head_dim % 8:
        return f"it wants heads of a multiple of 8 and at most 256 dimensions, not of {head_dim}"
    return None


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
    """See `attention` for the arguments, `misfit` for what they may be."""
    if len(query) == 0:
        return query, None
    if mask is not None:
        return attend_sdpa(query, key, value, layout, mask, window, scale, dropout)
    # A bare import would count as a requirement of the custom code on the Hub.
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError as error:
        raise ImportError(f"attn_implementation='flash_attention_2' needs {missing()}.") from error

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
