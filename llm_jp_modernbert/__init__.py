"""Japanese long-context ModernBERT: use, train, measure and publish it.

Importing this package registers its classes with transformers' Auto classes. Its names are imported on first use, so
that a command that only prints its help does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .auto import register, register_for_modernbert, unregister_for_modernbert

if TYPE_CHECKING:
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

__version__ = "0.1.0"

__all__ = [
    "LlmJpModernBertConfig",
    "LlmJpModernBertForMaskedLM",
    "LlmJpModernBertForMultipleChoice",
    "LlmJpModernBertForQuestionAnswering",
    "LlmJpModernBertForSequenceClassification",
    "LlmJpModernBertForTokenClassification",
    "LlmJpModernBertModel",
    "LlmJpTokenizer",
    "register_for_modernbert",
    "unregister_for_modernbert",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "LlmJpTokenizer":
        module = ".tokenization.tokenization_llm_jp"
    elif name == "LlmJpModernBertConfig":
        module = ".modeling.configuration_llm_jp_modernbert"
    else:
        module = ".modeling.modeling_llm_jp_modernbert"
    return getattr(import_module(module, __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register()
