"""The optimizer: AdamW with ModernBERT's settings and no weight decay where it makes no sense."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay.

    Norm weights and biases are vectors whose scale matters: decay would pull them to zero, not towards a simpler
    function. Everything of two dimensions or more decays.

    Args:
        model: the model; parameters that need no gradient are left out.
        weight_decay: of the first group.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def adamw(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; one fused pass over all parameters, which large vocabularies need."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=learning_rate, betas=betas, eps=eps, fused=True)
