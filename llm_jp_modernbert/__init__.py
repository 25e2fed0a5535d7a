"""Japanese long-context ModernBERT: train, evaluate, use and publish it.

Importing this package registers its classes with transformers' Auto classes. Public names are imported on first use,
so that `--help` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .inference.auto import register, register_for_modernbert, unregister_for_modernbert

if TYPE_CHECKING:
    from .inference.encoder.encoder import Encoder, load_encoder
    from .modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig
    from .modeling.modeling_llm_jp_modernbert import (
        LlmJpModernBertForMaskedLM,
        LlmJpModernBertForMultipleChoice,
        LlmJpModernBertForQuestionAnswering,
        LlmJpModernBertForSequenceClassification,
        LlmJpModernBertForTokenClassification,
        LlmJpModernBertModel,
    )
    from .tokenization.tokenization_llm_jp import LlmJpTokenizer

__version__ = "0.2.0.dev0"

__all__ = [
    "Encoder",
    "LlmJpModernBertConfig",
    "LlmJpModernBertForMaskedLM",
    "LlmJpModernBertForMultipleChoice",
    "LlmJpModernBertForQuestionAnswering",
    "LlmJpModernBertForSequenceClassification",
    "LlmJpModernBertForTokenClassification",
    "LlmJpModernBertModel",
    "LlmJpTokenizer",
    "load_encoder",
    "register_for_modernbert",
    "unregister_for_modernbert",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "LlmJpModernBertConfig":
        return getattr(import_module(".modeling.configuration_llm_jp_modernbert", __name__), name)
    if name in ("Encoder", "load_encoder"):
        return getattr(import_module(".inference.encoder.encoder", __name__), name)
    if name == "LlmJpTokenizer":
        module = import_module(".tokenization.tokenization_llm_jp", __name__)
        module.LlmJpTokenizer._hub_push = _push
    else:
        module = import_module(".modeling.modeling_llm_jp_modernbert", __name__)
        module.LlmJpModernBertPreTrainedModel._hub_push = _push
    return getattr(module, name)


def _push(saved: Any, repo_id: str, **kwargs: Any) -> Any:
    """Push a model or tokenizer to the Hub.

    Assigned to the classes here, because their modules are also custom code on the Hub and cannot import `publishing`.
    """
    from .publishing.push import push

    return push(saved, repo_id, **kwargs)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register()
