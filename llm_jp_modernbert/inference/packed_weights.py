"""Linear layers with prepared weights, for inference on a CPU.

For a sentence of ten tokens, most of the time goes into reading the weights. torch's linear layers read them in the
order of the checkpoint; here they are stored once in the order of use. Products of 16 tokens take half the time in
float32 (oneDNN's layout), and a quarter with float16 weights: half the bytes, converted to float32 for the product, so
that the only difference to the float32 model is the rounding of weights to 11 bits. Measured on the fill-mask prompts
and rejected: bfloat16 (8 bits) changes 1 to 2 % of the first candidates, int8 weights up to 2 %, and int8 activations
too up to 3 %.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar

import torch
from torch import nn

from llm_jp_modernbert.core.errors import UsageError

_Model = TypeVar("_Model", bound=nn.Module)

# The engines of torch.backends.quantized with float16 weights and float32 computation.
_ENGINES = ("x86", "fbgemm")


class PreparedLinear(nn.Module, ABC):
    """A linear layer with a prepared weight: it cannot be trained or saved.

    Args:
        linear: the layer with the weight. It is not changed.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(…, in_features)` → `(…, out_features)`."""
        if inputs.requires_grad:
            raise UsageError("a model with packed weights computes no gradients. Use the original model.")
        return self._multiply(inputs)

    @abstractmethod
    def _multiply(self, inputs: torch.Tensor) -> torch.Tensor:
        """The product with the prepared weight."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise UsageError("a model with packed weights cannot be saved. Save the original model.")


class OneDnnLinear(PreparedLinear):
    """A float32 or bfloat16 linear layer with its weight in oneDNN's layout, which equals the original layer.

    torch has no public function for it: these are the operators that torch.compile uses on CPUs.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        # Not buffers: they have no storage that a model could copy or convert.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()

    def _multiply(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(inputs, self.packed, self.bias, "none", [], "")


class HalfPrecisionLinear(PreparedLinear):
    """A linear layer with packed float16 weights, float32 in and out, converted from a float32 layer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        bias = None if linear.bias is None else linear.bias.detach()
        self.packed = torch.ops.quantized.linear_prepack_fp16(linear.weight.detach(), bias)

    def _multiply(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(inputs, self.packed)


def prepare_for_inference(model: _Model, dtype: torch.dtype = torch.float32) -> _Model:
    """Replaces the linear layers of a model by layers with prepared weights.

    The model is changed in place; no second copy of the weights is kept. It then computes neither losses nor gradients
    and cannot be saved.

    Args:
        model: a model on a CPU, in evaluation mode.
        dtype: float32 or bfloat16 (the model is converted; where the processor has no prepared products of this dtype,
            layers stay as they are), or float16: weights in float16, computation in float32.

    Returns:
        `model`.

    Raises:
        UsageError: another dtype, or float16 with an unsupported processor or a weight outside of its range.
    """
    is_half = dtype == torch.float16
    if is_half:
        _require_half_precision(model)
    elif dtype not in (torch.float32, torch.bfloat16):
        raise UsageError(f"inference in {dtype} is not supported. Choose float32, bfloat16 or float16.")
    model = model.to(torch.float32 if is_half else dtype).requires_grad_(False)
    if not is_half and not _has_prepared_products(dtype):
        return model
    # The matrix of tied embeddings stays in memory, and few rows are multiplied by it: no second copy.
    kept = set() if is_half else {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    # Without the layers themselves, so that each is freed as soon as it is replaced.
    for module in [module for module in model.modules() if not isinstance(module, nn.Linear)]:
        for name, child in list(module.named_children()):
            # Not subclasses, whose weights other modules read.
            if type(child) is nn.Linear and id(child.weight) not in kept:
                setattr(module, name, (HalfPrecisionLinear if is_half else OneDnnLinear)(child))
    return model


def _has_prepared_products(dtype: torch.dtype) -> bool:
    """Whether this torch on this processor has the operators of `OneDnnLinear`, and they are faster."""
    capabilities = torch.cpu.get_capabilities()
    # oneDNN emulates bfloat16 on AVX-512 without instructions for it.
    needed = ("avx512_bf16", "amx_bf16") if dtype == torch.bfloat16 else ("avx2",)
    if not any(capabilities.get(name) for name in needed):
        return False
    linear, rows = nn.Linear(64, 32, dtype=dtype), torch.ones(3, 64, dtype=dtype)
    try:
        with torch.no_grad():
            return torch.allclose(OneDnnLinear(linear)(rows), linear(rows), rtol=1e-2, atol=1e-2)
    except (AttributeError, RuntimeError):
        return False


def _require_half_precision(model: nn.Module) -> None:
    if torch.backends.quantized.engine not in _ENGINES:
        raise UsageError("packed float16 weights need an x86 processor with AVX2. Use float32 or bfloat16.")
    largest = float(torch.stack([weight.detach().abs().max() for weight in model.parameters()]).max())
    # `not <=` instead of `>`, so that NaN is refused.
    if not largest <= torch.finfo(torch.float16).max:
        name = getattr(model, "name_or_path", "model")
        raise UsageError(f"{name}: weights up to {largest:.0e} do not fit float16. Use float32.")
