"""Numerical precision of FSDP2: accelerate's default would round the loss and the rotary tables to bfloat16."""

from __future__ import annotations

from typing import Any

import torch


def keep_float32(plugin: Any) -> None:
    """Makes FSDP2 gather weights in the lower precision and leave all other casts to autocast, as without sharding.

    Gradients are summed over the ranks in float32. Without mixed precision, and with FSDP1, nothing changes.

    Args:
        plugin: accelerate's `FullyShardedDataParallelPlugin`, or None.
    """
    policy = getattr(plugin, "mixed_precision_policy", None)
    if policy is None or plugin.fsdp_version != 2:
        return
    # Builds of torch without torch.distributed cannot import this.
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=policy.param_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
