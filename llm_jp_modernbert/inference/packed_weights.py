"""Masked language models for single sentences on a CPU: weights in 16 bits, everything else in float32.

With a sentence of ten tokens, what takes time is reading the weights. In float16 there is half as much to read, and in
torch's packed form they are read in the order in which they are used. They are made float32 again on the way into the
product, which is summed in float32, so that nothing but the rounding of weights, to 11 bits, differs from the plain
model. What was measured and rejected, by the first candidates over the fill-mask prompts: bfloat16 (8 bits; changes
1 to 2 % of them) and int8 (weights alone up to 2 %, activations as well up to 3 %).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from llm_jp_modernbert.core.errors import UsageError

from .loading import OUR_MODEL_TYPES, load_masked_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of torch's engines for packed weights, those that hold float16 and compute in float32.
_ENGINES = ("x86", "fbgemm")


class HalfPrecisionLinear(nn.Module):
    """A linear layer with packed float16 weights, for inference.

    Args:
        linear: the float32 layer that it does the same as.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        bias = None if linear.bias is None else linear.bias.detach()
        self.packed = torch.ops.quantized.linear_prepack_fp16(linear.weight.detach(), bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(…, in_features)` → `(…, out_features)`, float32."""
        return torch.ops.quantized.linear_dynamic_fp16(inputs, self.packed)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise UsageError("a model with packed weights cannot be saved. Save the one that it was made of.")


def load_fast_masked_lm(name: str, revision: str | None = None) -> PreTrainedModel:
    """Loads a ModernBERT with its vocabulary head for inference on a CPU, with packed float16 weights.

    Args:
        name: a directory, a repository, or a repository at a revision (`ORG/NAME@REVISION`).
        revision: branch, tag or commit of a repository, where the name does not say it.

    Raises:
        UsageError: as `load_masked_lm` and `pack_weights`.
    """
    return pack_weights(load_masked_lm(name, revision, dtype="float32", device="cpu"))


def pack_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Puts packed float16 weights in the place of a model's linear layers.

    It is changed in place, and afterwards gives logits, but neither losses nor checkpoints.

    Args:
        model: a float32 model of this package on a CPU, in evaluation mode.

    Raises:
        UsageError: another model, a weight beyond float16's range, or a processor that torch has no such layers for.
    """
    if model.config.model_type not in OUR_MODEL_TYPES:
        raise UsageError(
            f"{model.name_or_path}: --fast is for ModernBERT, and this is {model.config.model_type}. Leave it out."
        )
    if torch.backends.quantized.engine not in _ENGINES:
        raise UsageError("--fast needs an x86 processor with AVX2. Leave it out, or try --dtype bfloat16.")
    largest = float(torch.stack([weight.detach().abs().max() for weight in model.parameters()]).max())
    # Not "greater", which what is no number never is.
    if not largest <= torch.finfo(torch.float16).max:
        raise UsageError(f"{model.name_or_path}: weights up to {largest:.0e} do not fit float16. Leave out --fast.")
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, HalfPrecisionLinear(child))
    return model
