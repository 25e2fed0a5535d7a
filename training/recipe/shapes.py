"""Named model shapes, and model configurations made from them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError

if TYPE_CHECKING:
    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

SHAPES: dict[str, dict[str, Any]] = {
    # The shape in the paper: 110 million parameters without the vocabulary.
    "base": {},
    # Trains in minutes on one GPU. Narrow models need more layers than wide ones of the same cost, and a larger
    # initializer range to leave the initial plateau, where only token frequencies are learned.
    "small": {
        "hidden_size": 384,
        "intermediate_size": 576,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "initializer_range": 0.04,
    },
    # Trains in minutes on two CPU cores, long enough to learn dependencies between adjacent words and little more.
    # A window of 4 tokens to either side isolates them; with 64, attention starts as an average over too many tokens.
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
"""The key of a recipe's `model` that names a shape."""

_ALTERNATION = "global_attn_every_n_layers"
# Names from transformers 4; the configuration stores them as layer_types and rope_parameters.
_OLDER_SETTINGS = {"global_rope_theta": 1e4, "local_rope_theta": 1e4, _ALTERNATION: 3}


def check_known(name: Any, known: Iterable[str], where: str, kind: str = "key") -> None:
    """Checks that a name is a known one.

    Args:
        where: start of the message, such as the file that holds the name.
        kind: the noun for the name in the message.

    Raises:
        UsageError: the name is unknown; the message suggests the closest one.
    """
    known = list(known)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, 1)
        choices = f"; choose one of {', '.join(known)}" if len(known) < 20 else ""
        raise UsageError(
            f"{where}: unknown {kind} {name!r}{f'; did you mean {close[0]}?' if close else f'{choices}.'}"
        )


def change_config(config: LlmJpModernBertConfig, settings: dict[str, Any]) -> None:
    """Changes settings of an existing configuration in place.

    Raises:
        UsageError: a setting is unknown, has the wrong type, or cannot be changed.
    """
    from huggingface_hub.errors import StrictDataclassError

    for name, value in _checked(settings).items():
        try:
            setattr(config, name, value)
        except StrictDataclassError as error:
            raise UsageError(f"model.{name}: {_reason(error)}") from error
        except AttributeError as error:
            raise UsageError(f"model.{name}: only for a new model; give layer_types instead.") from error


def model_config(model: str | dict[str, Any] | None, vocab_size: int, **settings: Any) -> LlmJpModernBertConfig:
    """The configuration of a new model.

    Args:
        model: name of a shape, or settings of `LlmJpModernBertConfig` with an optional `shape` that they override.
        vocab_size: number of tokens in the vocabulary.
        **settings: further settings, such as ids of special tokens.

    Raises:
        UsageError: a shape or setting is unknown, or the configuration rejects a value.
    """
    from huggingface_hub.errors import StrictDataclassError

    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

    overrides = {SHAPE: model} if isinstance(model, str) else dict(model or {})
    shape = overrides.pop(SHAPE, "base")
    check_known(shape, SHAPES, "model", "shape")
    try:
        config = LlmJpModernBertConfig(
            **{"vocab_size": vocab_size, **settings, **SHAPES[shape], **_checked(overrides)}
        )
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"model: the configuration rejects its settings: {_reason(error)}") from error
    width, heads = config.hidden_size, config.num_attention_heads
    if heads < 1 or width % heads or width // heads % 2:
        raise UsageError(
            f"model.num_attention_heads: hidden_size={width} must be divisible into {heads} heads of an even size."
        )
    return config


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with integers converted to float for float settings."""
    from transformers import PreTrainedConfig

    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

    inherited = {field.name for field in fields(PreTrainedConfig)}
    defaults: dict[str, Any] = dict(_OLDER_SETTINGS)
    defaults |= {field.name: field.default for field in fields(LlmJpModernBertConfig) if field.name not in inherited}
    checked: dict[str, Any] = {}
    for name, value in settings.items():
        check_known(name, defaults, f"model.{name}", "setting")
        if isinstance(defaults[name], float):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UsageError(f"model.{name}: {value!r} is not a number.")
            value = float(value)
        checked[name] = value
    every = checked.get(_ALTERNATION, 1)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise UsageError(f"model.{_ALTERNATION}: {every!r} is not an integer above 0.")
    return checked


def _reason(error: Exception) -> str:
    # The last line holds the reason; the lines before it name the validator.
    return str(error).strip().splitlines()[-1].strip()[:200]
