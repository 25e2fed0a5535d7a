"""Less memory for the backward pass of a compiled layer: it keeps matrix products and computes again what is between.

Norms, activations and copies of weights in lower precision are as good as free where they are fused with what reads
them. Left to itself, torch.compile keeps those that a matrix product of the backward pass reads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def keep_products(compute: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """What `compute(rows)` gives; with less kept for the backward pass in a compiled layer that trains on a CPU.

    Args:
        compute: a function that changes nothing in place.
        rows: `(rows, …)`.
    """
    # Not measured on GPUs, where products are so much faster that what is between them counts.
    if rows.device.type != "cpu" or not torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return compute(rows)
    return checkpoint(compute, rows, use_reentrant=False, context_fn=_contexts)


def leave_out_reminder() -> None:
    """Torch reminds users that nothing may be changed in place between such products, which here nothing is."""
    logging.getLogger("torch._higher_order_ops.wrap").addFilter(_is_no_reminder)


def _is_no_reminder(record: logging.LogRecord) -> bool:
    return "context_fn is passed to torch.utils.checkpoint" not in record.getMessage()


def _contexts() -> Any:
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    is_random = torch.Tag.nondeterministic_seeded in operator.tags
    return CheckpointPolicy.MUST_SAVE if operator in _PRODUCTS or is_random else CheckpointPolicy.PREFER_RECOMPUTE
