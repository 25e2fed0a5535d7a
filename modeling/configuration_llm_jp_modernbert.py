"""Configuration of the model, which reads and writes both generations of ModernBERT's keys.

transformers 4 describes the alternation of global and local attention by `global_attn_every_n_layers`,
`global_rope_theta` and `local_rope_theta`; transformers 5 uses `layer_types` and `rope_parameters` and saves only
these, for which transformers 4 silently uses its defaults. This configuration reads and writes both.
"""

# Without `from __future__ import annotations`, which would hide the types of the fields from `strict`.
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers.models.modernbert.configuration_modernbert import ModernBertConfig

PLAIN_MODEL_TYPE = ModernBertConfig.model_type
_OLD_KEYS = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")
_CLASS_PREFIX = "LlmJp"
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size"),
    *("num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
)
# Far beyond any encoder: larger numbers are mistakes that would fill the memory.
_MAX_LAYERS, _MAX_PARAMETERS = 1000, 10**11


@strict
class LlmJpModernBertConfig(ModernBertConfig):
    """Configuration of an llm-jp-modernbert model; the defaults are the base model of arXiv 2504.15544,
    [llm-jp/llm-jp-modernbert-base](https://huggingface.co/llm-jp/llm-jp-modernbert-base).

    All fields of transformers' `ModernBertConfig` apply; only defaults differ (vocabulary and special ids of
    llm-jp-tokenizer v3, RoPE theta 10,000 in global and local layers). In addition:

    Args:
        checkpoint_format: `"native"` writes `model_type: llm-jp-modernbert`, `"plain"` writes `model_type:
            modernbert`, which transformers loads without this package. A configuration read from a `modernbert`
            checkpoint is plain, so that saving keeps the format. Not written to config.json.
        allow_longer_input: whether documents may be longer than `max_position_embeddings`; they raise a ValueError by
            default, because quality drops beyond the context length of training.
        autocast_residual: whether hidden states between the layers have autocast's dtype where autocast is enabled,
            which halves the memory traffic of residual additions and norms; float32 by default. Not written to
            config.json.
        global_attn_every_n_layers, global_rope_theta, local_rope_theta: transformers 4's names for the contents of
            `layer_types` and `rope_parameters`; read if those are missing. `local_rope_theta=None` means "as global".

    Example:
        >>> config = LlmJpModernBertConfig(num_hidden_layers=6, global_attn_every_n_layers=3)
        >>> config.layer_types[:3]
        ['full_attention', 'sliding_attention', 'sliding_attention']
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
    autocast_residual: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        _check_values({**vars(self), **kwargs})
        every = kwargs.pop("global_attn_every_n_layers", None)
        if self.layer_types is None and every is not None:
            self.layer_types = _alternation(self.num_hidden_layers, every)
        super().__post_init__(**_with_local_theta(kwargs, self.default_theta["global"]))
        for kind, rope in (self.rope_parameters or {}).items():
            _check_theta(f"rope_parameters.{kind}.rope_theta", rope.get("rope_theta"))

    @classmethod
    def of(cls, config: ModernBertConfig) -> "LlmJpModernBertConfig":
        """Convert transformers' configuration to this class, in plain format; return this class unchanged."""
        if isinstance(config, cls):
            return config
        own = cls.from_dict(config.to_dict())
        # Not saved with checkpoints, so not part of the dictionary.
        own._attn_implementation = config._attn_implementation
        return own

    @property
    def _attn_implementation(self) -> Any:
        """The attention backend, or a mapping from layer types to backends; None chooses one per batch."""
        return self._attn_implementation_internal

    @_attn_implementation.setter
    def _attn_implementation(self, value: Any) -> None:
        # transformers understands mappings by sub-configuration, of which there are none.
        is_default = isinstance(value, Mapping) and "" in value
        self._attn_implementation_internal = value[""] if is_default else value

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
        """The n of "every n-th layer is global", or None for other `layer_types`; setting it changes `layer_types`."""
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
        """Read a dictionary like transformers, and translate that of a `modernbert` checkpoint.

        Raises:
            ValueError: a value has a wrong type or is out of range.
        """
        with _one_line_errors():
            config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
            return _translate_plain(config_dict), kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from a dictionary; with `model_type: modernbert`, missing keys get ModernBERT's defaults.

        Raises:
            ValueError: a value has a wrong type or is out of range.
        """
        with _one_line_errors():
            # transformers assigns these one by one, without a check.
            _check_values({**config_dict, **kwargs})
            return super().from_dict(_translate_plain(config_dict), **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings under transformers 5's names and, where they exist, also under transformers 4's."""
        output = super().to_dict()
        output.pop("checkpoint_format", None)
        output.pop("autocast_residual", None)
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
    """Replace `local_rope_theta: null`, which means "as global" in transformers 4 and is an error in 5."""
    if "local_rope_theta" in config_dict and config_dict["local_rope_theta"] is None:
        return {**config_dict, "local_rope_theta": config_dict.get("global_rope_theta", default_global_theta)}
    return config_dict


def _translate_plain(config_dict: dict[str, Any]) -> dict[str, Any]:
    """Translate the dictionary of a `modernbert` checkpoint, and return any other dictionary unchanged.

    Missing keys get ModernBERT's defaults, not this class's; transformers itself reads the old keys.
    """
    if config_dict.get("model_type") != PLAIN_MODEL_TYPE:
        return config_dict
    _check_values(config_dict)
    values = _with_local_theta(config_dict, ModernBertConfig.default_theta["global"])
    plain = ModernBertConfig.from_dict(dict(values))
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(ModernBertConfig)
        if field.default is not dataclasses.MISSING
    }
    translated = {**defaults, **values, "layer_types": plain.layer_types, "rope_parameters": plain.rope_parameters}
    translated["checkpoint_format"] = "plain"
    for key in ("model_type", *_OLD_KEYS):
        translated.pop(key, None)
    return translated


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn the errors of wrong values into a ValueError of one line; transformers' have several or name no cause."""
    try:
        yield
    except StrictDataclassError as error:
        raise ValueError(f"configuration: {' '.join(str(error).split())}") from error
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"configuration: {type(error).__name__}: {error}") from error


def _check_values(values: Mapping[str, Any]) -> None:
    """Check values that transformers computes with before it checks them; it checks the types of the fields itself.

    Raises:
        ValueError: a value has a wrong type, or a model of these sizes cannot be meant.
    """
    least = {**dict.fromkeys(_SIZES, 1), "global_attn_every_n_layers": 1, "local_attention": 0, "num_labels": 0}
    for name, bound in least.items():
        size = values.get(name)
        if size is not None and not (isinstance(size, int) and size >= bound):
            raise ValueError(f"{name}={size!r} must be an integer of at least {bound}.")
    vocabulary, hidden, intermediate, layers = (values.get(name) or 0 for name in _SIZES[:4])
    parameters = vocabulary * hidden + layers * hidden * (4 * hidden + 3 * intermediate)
    if layers > _MAX_LAYERS or parameters > _MAX_PARAMETERS:
        raise ValueError(
            f"num_hidden_layers={layers}, hidden_size={hidden}, intermediate_size={intermediate}, "
            f"vocab_size={vocabulary}: at most {_MAX_LAYERS:,} layers and {_MAX_PARAMETERS:,} parameters are possible."
        )
    for name in ("global_rope_theta", "local_rope_theta"):
        if name in values and (values[name] is not None or name == "global_rope_theta"):
            _check_theta(name, values[name])
    labels = values.get("id2label") or {}
    is_mapping = isinstance(labels, Mapping) and all(str(key).isdecimal() for key in labels)
    if not is_mapping or not all(isinstance(label, str) for label in labels.values()):
        raise ValueError(f"id2label must map numbers to names, not {str(labels)[:80]!r}.")


def _check_theta(name: str, theta: Any) -> None:
    if not isinstance(theta, int | float) or not theta > 0:
        raise ValueError(f"{name} must be a positive number, not {theta!r}.")
