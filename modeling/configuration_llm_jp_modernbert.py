"""Configuration of the model: reads and writes both generations of ModernBERT's keys.

transformers 4 describes the alternation of global and local attention by `global_attn_every_n_layers`,
`global_rope_theta` and `local_rope_theta`; transformers 5 by `layer_types` and `rope_parameters`, and saves only
these. A transformers 4 that reads such a file falls back to its own defaults without a word. Here both families are
read, and both are written.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.models.modernbert.configuration_modernbert import ModernBertConfig

PLAIN_MODEL_TYPE = ModernBertConfig.model_type
_OLD_KEYS = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")
_CLASS_PREFIX = "LlmJp"


@strict
class LlmJpModernBertConfig(ModernBertConfig):
    """Configuration of an llm-jp-modernbert model; the defaults are the base model of arXiv 2504.15544,
    [llm-jp/llm-jp-modernbert-base](https://huggingface.co/llm-jp/llm-jp-modernbert-base).

    All fields of transformers' `ModernBertConfig` apply; only defaults differ (vocabulary and special ids of
    llm-jp-tokenizer v3, RoPE theta 10,000 in global and local layers). In
    addition:

    Args:
        checkpoint_format: `"native"` writes `model_type: llm-jp-modernbert`, `"plain"` writes `model_type:
            modernbert`, which transformers loads without this package. A configuration read from a `modernbert`
            checkpoint is plain, so that what came in goes out. Never written to the file itself.
        allow_longer_input: let documents be longer than `max_position_embeddings`, which is an error otherwise: beyond
            the lengths of its training a model gives answers, but not good ones.
        global_attn_every_n_layers, global_rope_theta, local_rope_theta: transformers 4's names for what `layer_types`
            and `rope_parameters` say; read when those are absent. `local_rope_theta=None` means "as global".
    """

    model_type = "llm-jp-modernbert"
    default_theta = {"global": 10_000.0, "local": 10_000.0}

    vocab_size: int = 99574
    pad_token_id: int | None = 4
    bos_token_id: int | None = 5
    cls_token_id: int | None = 5
    eos_token_id: int | list[int] | None = 6
    sep_token_id: int | None = 6
    checkpoint_format: Literal["native", "plain"] = "native"
    allow_longer_input: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        every = kwargs.pop("global_attn_every_n_layers", None)
        if self.layer_types is None and every is not None:
            self.layer_types = _alternation(self.num_hidden_layers, every)
        super().__post_init__(**_with_local_theta(kwargs, self.default_theta["global"]))

    @classmethod
    def of(cls, config: ModernBertConfig) -> LlmJpModernBertConfig:
        """A configuration as one of this class: itself, or what transformers' own says, to be saved as such again."""
        if isinstance(config, cls):
            return config
        own = cls.from_dict(config.to_dict())
        # Not of a checkpoint, and so in no dictionary.
        own._attn_implementation = config._attn_implementation
        return own

    @property
    def global_rope_theta(self) -> float:
        """RoPE theta of the global layers; setting it changes `rope_parameters`."""
        return self._rope("full_attention")["rope_theta"]

    @global_rope_theta.setter
    def global_rope_theta(self, theta: float) -> None:
        self._rope("full_attention")["rope_theta"] = theta

    @property
    def local_rope_theta(self) -> float:
        """RoPE theta of the local layers; setting it changes `rope_parameters`."""
        return self._rope("sliding_attention")["rope_theta"]

    @local_rope_theta.setter
    def local_rope_theta(self, theta: float) -> None:
        self._rope("sliding_attention")["rope_theta"] = theta

    @property
    def global_attn_every_n_layers(self) -> int | None:
        """The n of "every n-th layer is global", or None where `layer_types` is no such alternation; setting it
        changes `layer_types`."""
        count = self.num_hidden_layers
        return next((n for n in range(1, count + 1) if _alternation(count, n) == self.layer_types), None)

    @global_attn_every_n_layers.setter
    def global_attn_every_n_layers(self, every: int) -> None:
        self.layer_types = _alternation(self.num_hidden_layers, every)

    def _rope(self, kind: Literal["full_attention", "sliding_attention"]) -> dict[str, Any]:
        return (self.rope_parameters or {})[kind]

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As transformers', with the dictionary of a `modernbert` checkpoint already translated."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return _translate_plain(config_dict), kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers'; a dictionary with `model_type: modernbert` gets ModernBERT's defaults where keys miss."""
        return super().from_dict(_translate_plain(config_dict), **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """All settings under transformers 5's names and, where they can say it, under transformers 4's as well."""
        output = super().to_dict()
        output.pop("checkpoint_format", None)
        if not self.allow_longer_input:
            output.pop("allow_longer_input", None)
        output["global_rope_theta"] = self.global_rope_theta
        output["local_rope_theta"] = self.local_rope_theta
        if self.global_attn_every_n_layers is not None:
            output["global_attn_every_n_layers"] = self.global_attn_every_n_layers
        if self.checkpoint_format == "plain":
            output["model_type"] = PLAIN_MODEL_TYPE
            output.pop("auto_map", None)
            if output.get("architectures"):
                output["architectures"] = [name.removeprefix(_CLASS_PREFIX) for name in output["architectures"]]
        return output


def _alternation(num_layers: int, every: int) -> list[str]:
    return ["sliding_attention" if layer % every else "full_attention" for layer in range(num_layers)]


def _with_local_theta(config_dict: dict[str, Any], default_global_theta: float) -> dict[str, Any]:
    """Spell out `local_rope_theta: null`, which transformers 4 reads as "the global theta" and 5 fails on."""
    if "local_rope_theta" in config_dict and config_dict["local_rope_theta"] is None:
        return {**config_dict, "local_rope_theta": config_dict.get("global_rope_theta", default_global_theta)}
    return config_dict


def _translate_plain(config_dict: dict[str, Any]) -> dict[str, Any]:
    """Translate the dictionary of a `modernbert` checkpoint; any other dictionary is returned as it is.

    Missing keys get ModernBERT's defaults, not this class's, and the old keys are read by transformers itself.
    """
    if config_dict.get("model_type") != PLAIN_MODEL_TYPE:
        return config_dict
    given = _with_local_theta(config_dict, ModernBertConfig.default_theta["global"])
    plain = ModernBertConfig.from_dict(dict(given))
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(ModernBertConfig)
        if field.default is not dataclasses.MISSING
    }
    translated = {**defaults, **given, "layer_types": plain.layer_types, "rope_parameters": plain.rope_parameters}
    translated["checkpoint_format"] = "plain"
    for key in ("model_type", *_OLD_KEYS):
        translated.pop(key, None)
    return translated
