"""Named shapes of models, and configurations made from them."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

SHAPES: dict[str, dict[str, Any]] = {
    # The paper's: 110 million parameters beside those of the vocabulary.
    "base": {},
    # A GPU trains it in minutes. Narrow models want more layers than wide ones of the same cost, and a wider
    # initialisation, without which they stay longer on the plateau at which only frequencies are learned.
    "small": {
        "hidden_size": 384,
        "intermediate_size": 576,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "initializer_range": 0.04,
    },
    # Two cores train it in minutes.
    "nano": {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "initializer_range": 0.06,
    },
}

SHAPE = "shape"
"""The key of a recipe's `model` that names a shape beside overrides."""


def shape_settings(model: str | dict[str, Any] | None) -> dict[str, Any]:
    """Configuration settings of a recipe's `model`.

    Args:
        model: a shape's name, or settings of `LlmJpModernBertConfig` with an optional `shape` that they change.

    Raises:
        ValueError: no such shape, or no such setting.
    """
    from ..modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

    settings = {SHAPE: model} if isinstance(model, str) else dict(model or {})
    shape = settings.pop(SHAPE, "base")
    if shape not in SHAPES:
        raise ValueError(f"model: there is no shape {shape!r}; there are {', '.join(SHAPES)}.")
    known = [name for name in vars(LlmJpModernBertConfig()) if not name.startswith("_")] + ["global_rope_theta"]
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise ValueError(f"model.{name}: no such setting{f'; did you mean {close[0]}?' if close else '.'}")
    return {**SHAPES[shape], **settings}


def model_config(model: str | dict[str, Any] | None, vocab_size: int, **settings: Any) -> LlmJpModernBertConfig:
    """The configuration of a new model.

    Args:
        model: see `shape_settings`.
        vocab_size: tokens of the tokenizer.
        **settings: further ones, such as ids of special tokens.

    Raises:
        ValueError: no such shape or setting, or one that the configuration refuses.
    """
    from ..modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

    return LlmJpModernBertConfig(**{"vocab_size": vocab_size, **settings, **shape_settings(model)})
