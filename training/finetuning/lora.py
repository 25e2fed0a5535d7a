"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft."""

from __future__ import annotations

import warnings
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from llm_jp_modernbert.core.errors import UsageError


def with_adapters(model: PreTrainedModel, rank: int) -> Any:
    """Adds adapters to all linear layers of the encoder; only they and the head are trained.

    Args:
        model: a model with a head.
        rank: rank of the adapters.

    Returns:
        A `peft.PeftModel`.

    Raises:
        UsageError: peft is not installed, or the encoder has no linear layers.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UsageError("--lora needs peft: pip install 'llm-jp-modernbert[finetune]'.") from error
    prefix = model.base_model_prefix
    encoder = getattr(model, prefix)
    linear = [f"{prefix}.{name}" for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UsageError(f"--lora: {type(model).__name__} has no linear layers that peft could adapt.")
    head = [name for name, module in model.named_children() if name != prefix and list(module.parameters())]
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear, modules_to_save=head)
    with warnings.catch_warnings():
        # peft reads a deprecated attribute of transformers' models.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, settings)


def merged(model: Any) -> PreTrainedModel:
    """The model of `with_adapters` with the adapters merged into its weights: an ordinary model again."""
    return cast(PreTrainedModel, model.merge_and_unload())
