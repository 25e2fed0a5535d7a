"""Default backend on GPUs: torch's own `varlen_attn`, FlashAttention-2 without a further package.

After `torch.nn.attention.activate_flash_attention_impl("FA3")` (or `"FA4"`), torch runs that kernel instead.
"""

from __future__ import annotations

from typing import Any

import torch

from .attention import AttentionBackend, AttentionInputs
from .attention_flash import build_mask
from .attention_flash import unsupported_reason as unsupported_reason_flash
from .attention_sdpa import attend as attend_sdpa

_HAS_WINDOWS = torch.__version__ >= "2.11"


def missing_requirement() -> str | None:
    """Name the required version of torch, or return None."""
    return None if _HAS_WINDOWS else f"torch 2.11 or later; installed is {torch.__version__}"


def unsupported_reason(device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float) -> str | None:
    """Say why the kernel does not support such inputs, or return None."""
    if dropout:
        return "it does not support dropout of attention weights"
    reason = unsupported_reason_flash(device, dtype, head_dim, dropout)
    if reason is None and (torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0)):
        return "it needs an NVIDIA GPU of compute capability 8.0 or higher"
    return reason


def attend(inputs: AttentionInputs) -> tuple[torch.Tensor, None]:
    """Compute attention with `torch.nn.attention.varlen.varlen_attn`."""
    if inputs.query.shape[0] == 0:
        return inputs.query, None
    if inputs.mask is not None:
        return attend_sdpa(inputs)
    from torch.nn.attention.varlen import varlen_attn

    layout, window = inputs.layout, inputs.window
    out: Any = varlen_attn(
        inputs.query,
        inputs.key,
        inputs.value,
        layout.cu_seqlens,
        layout.cu_seqlens,
        layout.max_length,
        layout.max_length,
        scale=inputs.scale,
        window_size=(-1, -1) if window is None else (window, window),
    )
    return out, None


BACKEND = AttentionBackend(
    attend, build_mask, missing_requirement=missing_requirement, unsupported_reason=unsupported_reason
)
