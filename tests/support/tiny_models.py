"""The small configuration from which tests build models."""

from __future__ import annotations

from typing import Any

from llm_jp_modernbert import LlmJpModernBertConfig


def tiny_config(**changes: Any) -> LlmJpModernBertConfig:
    """Build a configuration of three layers (global, local, local) and 32 dimensions.

    Args:
        changes: settings that differ.
    """
    keys: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "local_attention": 16,
    }
    return LlmJpModernBertConfig(**{**keys, **changes})
