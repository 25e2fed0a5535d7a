"""Optimizers that transformers does not have, or only with another package."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import nn

from .recipe.arguments import MUON, STABLE_ADAMW, PretrainingArguments

# Matrices of the encoder layers; the prediction head and the embeddings have other names.
_LAYERS = "model.layers."


def make_optimizer(
    model: nn.Module, arguments: PretrainingArguments, decayed: Collection[str]
) -> torch.optim.Optimizer | None:
    """The recipe's optimizer if it is one of this module, and None if it is one of transformers.

    Args:
        model: the model to train.
        arguments: the recipe.
        decayed: names of parameters with weight decay.
    """
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    common: Any = {"lr": arguments.learning_rate, "betas": betas, "eps": arguments.adam_epsilon}
    parameters = [(name, value) for name, value in model.named_parameters() if value.requires_grad]

    def groups(accepts: Callable[[str, nn.Parameter], bool]) -> list[dict[str, Any]]:
        """One group with weight decay and one without."""
        chosen = [(name, value) for name, value in parameters if accepts(name, value)]
        return [
            {"params": values, "weight_decay": arguments.weight_decay if decays else 0.0}
            for decays in (True, False)
            if (values := [value for name, value in chosen if (name in decayed) == decays])
        ]

    def is_matrix(name: str, value: nn.Parameter) -> bool:
        return name.startswith(_LAYERS) and value.ndim == 2

    if arguments.optim == STABLE_ADAMW:
        return StableAdamW(groups(lambda name, value: True), **common)
    if arguments.optim == MUON:
        others = groups(lambda name, value: not is_matrix(name, value))
        return MuonAdamW(groups(is_matrix), others, **common)
    return None


class MuonAdamW(torch.optim.Optimizer):
    """Muon for matrices and AdamW for the other parameters, as one optimizer.

    Muon's update is a matrix whose singular values are all about 1, scaled to the root mean square of AdamW's updates
    (arXiv 2502.16982), so that both share learning rate and weight decay.

    Args:
        matrices: parameter groups that Muon updates.
        others: parameter groups that AdamW updates.
        lr: learning rate of both.
        betas: coefficients of AdamW.
        eps: term of AdamW's denominator.
    """

    def __init__(
        self,
        matrices: Iterable[dict[str, Any]],
        others: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        muon = torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps, fused=True)
        self._muon, self._adamw, self._muon_groups = muon, adamw, len(muon.param_groups)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Updates all parameters that have a gradient."""
        # Both work on the groups and states of this optimizer, which loading a checkpoint replaces.
        self._muon.param_groups = self.param_groups[: self._muon_groups]
        self._adamw.param_groups = self.param_groups[self._muon_groups :]
        for part in (self._muon, self._adamw):
            part.state = self.state
            part.step()


class StableAdamW(torch.optim.Optimizer):
    """AdamW with shorter steps where the second moment lags behind the gradient.

    Algorithm 2 of arXiv 2304.13013: the learning rate of each tensor is divided by the root mean square of gradient ÷
    √second moment where that is above 1, as in Adafactor's clipping of updates (arXiv 1804.04235). Its state is that
    of `torch.optim.AdamW`.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: coefficients of the moments.
        eps: term of the denominator.
        weight_decay: decoupled weight decay.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Updates all parameters that have a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._update(parameters, **{name: value for name, value in group.items() if name in self.defaults})

    def _update(
        self, parameters: list[torch.Tensor], lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                zeros = (torch.zeros_like(parameter) for _ in range(2))
                self.state[parameter] = dict(zip(("exp_avg", "exp_avg_sq"), zeros, strict=True))
            # On the host: on a GPU, reading it would wait for the device.
            self.state[parameter]["step"] = torch.tensor(float(self.state[parameter].get("step", 0)) + 1)
        states = [self.state[parameter] for parameter in parameters]
        gradients: Any = [parameter.grad for parameter in parameters]
        first, second = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        corrections = [[1 - beta ** float(state["step"]) for state in states] for beta in betas]

        torch._foreach_lerp_(first, gradients, 1 - betas[0])
        torch._foreach_mul_(second, betas[1])
        torch._foreach_addcmul_(second, gradients, gradients, 1 - betas[1])
        roots = torch._foreach_sqrt(torch._foreach_div(second, corrections[1]))
        ratios = torch._foreach_div(gradients, torch._foreach_clamp_min(roots, eps))
        norms = torch._foreach_norm(ratios)
        del ratios
        # The learning rate of each tensor.
        rates = torch._foreach_div(norms, [math.sqrt(parameter.numel()) for parameter in parameters])
        torch._foreach_clamp_min_(rates, 1.0)
        torch._foreach_reciprocal_(rates)
        torch._foreach_mul_(rates, lr)

        if weight_decay:
            kept = torch._foreach_mul(rates, -weight_decay)
            torch._foreach_add_(kept, 1.0)
            torch._foreach_mul_(parameters, kept)
        torch._foreach_add_(roots, eps)
        updates = torch._foreach_div(first, roots)
        torch._foreach_div_(updates, corrections[0])
        torch._foreach_mul_(updates, rates)
        torch._foreach_sub_(parameters, updates)
