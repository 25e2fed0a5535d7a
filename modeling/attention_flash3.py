"""FlashAttention-3 (arXiv 2407.08608), faster than FlashAttention-2 on Hopper GPUs.

The kernel comes from the package `flash_attn_interface`, which is built from source, or from a build on the Hub that
the `kernels` package downloads.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from .attention import AttentionBackend, AttentionInputs
from .attention_flash import build_mask as build_mask_flash
from .attention_flash import unsupported_reason as unsupported_reason_flash
from .attention_sdpa import attend as attend_sdpa
from .layout import PackedLayout

_HUB_KERNEL, _HUB_VERSION = "kernels-community/flash-attn3", 1


def missing_requirement() -> str | None:
    """Name the package that must be installed, or return None."""
    if find_spec("flash_attn_interface") is not None or find_spec("kernels") is not None:
        return None
    return "the kernels package (pip install kernels), or flash_attn_interface, FlashAttention-3 built from source"


def unsupported_reason(device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float) -> str | None:
    """Say why the kernel does not support such inputs, or return None."""
    if dropout:
        return "it does not support dropout of attention weights"
    reason = unsupported_reason_flash(device, dtype, head_dim, dropout)
    if reason is None and (torch.version.cuda is None or torch.cuda.get_device_capability(device)[0] not in (8, 9)):
        return "it needs an NVIDIA GPU of compute capability 8 or 9"
    return reason


def build_mask(layout: PackedLayout, window: int | None, dtype: torch.dtype) -> Any:
    """Return the kernel, which reads the document boundaries itself, or sdpa's mask if the attention mask has holes.

    Raises:
        ImportError: no kernel is installed, or the Hub has none for this system.
    """
    # Found here, because torch.compile does not trace imports and downloads.
    return build_mask_flash(layout, window, dtype) if layout.has_holes else _kernel()


def attend(inputs: AttentionInputs) -> tuple[torch.Tensor, None]:
    """Compute attention with FlashAttention-3."""
    if inputs.query.shape[0] == 0:
        return inputs.query, None
    layout, window = inputs.layout, inputs.window
    if layout.has_holes:
        return attend_sdpa(inputs)
    out = inputs.mask(
        inputs.query,
        inputs.key,
        inputs.value,
        cu_seqlens_q=layout.cu_seqlens,
        cu_seqlens_k=layout.cu_seqlens,
        max_seqlen_q=layout.max_length,
        max_seqlen_k=layout.max_length,
        softmax_scale=inputs.scale,
        window_size=(-1, -1) if window is None else (window, window),
    )
    # Early builds also return the log-normalizers.
    return out[0] if isinstance(out, tuple) else out, None


def _kernel() -> Any:
    # transformers would require a package that custom code imports outside of try.
    try:
        from flash_attn_interface import flash_attn_varlen_func
    except ImportError:
        return _hub_kernel()
    return flash_attn_varlen_func


@cache
def _hub_kernel() -> Any:
    try:
        from kernels import get_kernel

        return get_kernel(_HUB_KERNEL, version=_HUB_VERSION).flash_attn_varlen_func
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        needs = missing_requirement() or f"a build of {_HUB_KERNEL} for this system: {error}"
        raise ImportError(f"attn_implementation='flash_attention_3' needs {needs}.") from error


BACKEND = AttentionBackend(
    attend, build_mask, missing_requirement=missing_requirement, unsupported_reason=unsupported_reason
)
