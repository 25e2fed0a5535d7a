"""Named shapes of models, and configurations made from them."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError

if TYPE_CHECKING:
    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

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
    # Two cores train it in minutes, in which it learns what neighbouring words tell each other, and little else.
    # Windows of 4 tokens to either side show it these from the first step, where 64 bury them in an average.
    "nano": {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "local_attention": 8,
        "initializer_range": 0.06,
    },
}

SHAPE = "shape"
"""The key of a recipe's `model` that names a shape beside overrides."""

# Transformers 4's names of what the configuration keeps as layer_types and rope_parameters.
_THETAS = ("global_rope_theta", "local_rope_theta")
_ALTERNATION = "global_attn_every_n_layers"


def shape_settings(model: str | dict[str, Any] | None) -> dict[str, Any]:
    """Configuration settings of a recipe's `model`.

    Args:
        model: a shape's name, or settings of `LlmJpModernBertConfig` with an optional `shape` that they change.

    Raises:
        UsageError: no such shape, no such setting, or no number where one is wanted.
    """
    settings = {SHAPE: model} if isinstance(model, str) else dict(model or {})
    shape = settings.pop(SHAPE, "base")
    if shape not in SHAPES:
        raise UsageError(f"model: there is no shape {shape!r}; there are {', '.join(SHAPES)}.")
    return {**SHAPES[shape], **setting_values(settings)}


def setting_values(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a configuration, with numbers where the configuration has fractions.

    Args:
        settings: as in a recipe.

    Raises:
        UsageError: no such setting, or no number where one is wanted.
    """
    from transformers import PreTrainedConfig

    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

    of_every_model = {field.name for field in fields(PreTrainedConfig)}
    own = {field.name: field.default for field in fields(LlmJpModernBertConfig) if field.name not in of_every_model}
    defaults: dict[str, Any] = {**own, **dict.fromkeys(_THETAS, 1e4), _ALTERNATION: 3}
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in defaults:
            close = difflib.get_close_matches(str(name), defaults, 1)
            raise UsageError(f"model.{name}: no such setting{f'; did you mean {close[0]}?' if close else '.'}")
        if isinstance(defaults[name], float):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                # YAML takes 1e-5 for a text.
                raise UsageError(f"model.{name}: {value!r} is not a number; write it as 0.001 or 1.0e-3.")
            value = float(value)
        found[name] = value
    every = found.get(_ALTERNATION, 1)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise UsageError(f"model.{_ALTERNATION}: {every!r} is not a whole number above 0.")
    return found


def change_config(config: LlmJpModernBertConfig, settings: dict[str, Any]) -> None:
    """Sets settings of a configuration that is there already, such as that of the model that training starts from.

    Args:
        config: is changed.
        settings: as in a recipe.

    Raises:
        UsageError: no such setting, or one that cannot be changed to this.
    """
    from huggingface_hub.errors import StrictDataclassError

    for name, value in setting_values(settings).items():
        try:
            setattr(config, name, value)
        except StrictDataclassError as error:
            raise UsageError(f"model.{name}: {_reason(error)}") from error
        except AttributeError as error:
            raise UsageError(f"model.{name}: only for a new model; give layer_types instead.") from error


def model_config(model: str | dict[str, Any] | None, vocab_size: int, **settings: Any) -> LlmJpModernBertConfig:
    """The configuration of a new model.

    Args:
        model: see `shape_settings`.
        vocab_size: tokens of the tokenizer.
        **settings: further ones, such as ids of special tokens.

    Raises:
        UsageError: no such shape or setting, or one that the configuration refuses.
    """
    from huggingface_hub.errors import StrictDataclassError

    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

    wanted = shape_settings(model)
    try:
        config = LlmJpModernBertConfig(**{"vocab_size": vocab_size, **settings, **wanted})
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"model: the configuration refuses its settings: {_reason(error)}") from error
    width, heads = config.hidden_size, config.num_attention_heads
    if heads < 1 or width % heads or width // heads % 2:
        raise UsageError(
            f"model.num_attention_heads: {heads} heads do not share hidden_size={width} in even parts of an even size."
        )
    return config


def _reason(error: Exception) -> str:
    # The last line says what is wrong; those before it say which check found it.
    return str(error).strip().splitlines()[-1].strip()[:200]
