"""FlashAttention-2 (arXiv 2307.08691) from the flash-attn package: CUDA kernels for packed documents and windows."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from .attention import AttentionBackend, AttentionInputs
from .attention_sdpa import attend as attend_sdpa
from .attention_sdpa import build_mask as build_mask_sdpa
from .layout import PackedLayout


def missing_requirement() -> str | None:
    """Name the package that must be installed, or return None."""
    if find_spec("flash_attn") is not None:
        return None
    return "the flash-attn package: pip install 'llm-jp-modernbert[flash]'"


def unsupported_reason(device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float) -> str | None:
    """Say why the kernel does not support such inputs, or return None."""
    if device.type != "cuda":
        return f"it runs on CUDA devices, not on {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 or bfloat16, not in {str(dtype).removeprefix('torch.')}"
    if head_dim > 256 or head_dim % 8:
        return f"head_dim must be a multiple of 8 and at most 256, not {head_dim}"
    return None


def build_mask(layout: PackedLayout, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Return None, since the kernel reads the document boundaries itself, unless the attention mask has holes.

    With holes, a window over columns differs from the kernel's window over tokens: such layers use the sdpa backend.
    """
    return build_mask_sdpa(layout, window, dtype) if layout.has_holes else None


def attend(inputs: AttentionInputs) -> tuple[torch.Tensor, None]:
    """Compute attention with flash-attn.

    Raises:
        ImportError: flash-attn is not installed.
    """
    if inputs.query.shape[0] == 0:
        return inputs.query, None
    if inputs.mask is not None:
        return attend_sdpa(inputs)
    # transformers would require a package that custom code imports outside of try.
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError as error:
        raise ImportError(f"attn_implementation='flash_attention_2' needs {missing_requirement()}.") from error

    layout, window = inputs.layout, inputs.window
    out = flash_attn_varlen_func(
        inputs.query,
        inputs.key,
        inputs.value,
        cu_seqlens_q=layout.cu_seqlens,
        cu_seqlens_k=layout.cu_seqlens,
        max_seqlen_q=layout.max_length,
        max_seqlen_k=layout.max_length,
        dropout_p=inputs.dropout,
        softmax_scale=inputs.scale,
        window_size=(-1, -1) if window is None else (window, window),
    )
    return out, None


BACKEND = AttentionBackend(
    attend, build_mask, missing_requirement=missing_requirement, unsupported_reason=unsupported_reason
)
