"""The configuration reads and writes both generations of ModernBERT's keys, with the same meaning as transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peer import HEAD_NAMES, own_class, peer_class, settings
from transformers import ModernBertConfig

from llm_jp_modernbert import LlmJpModernBertConfig, LlmJpModernBertForMaskedLM

GLOBAL, LOCAL = "full_attention", "sliding_attention"


def old_keys(**changes: Any) -> dict[str, Any]:
    """Return settings of a small model under transformers 4's names."""
    return settings(num_hidden_layers=6, global_rope_theta=160_000.0, local_rope_theta=10_000.0) | changes


def new_keys(**changes: Any) -> dict[str, Any]:
    """Return the same settings under transformers 5's names."""
    values = {
        key: value
        for key, value in old_keys().items()
        if key not in ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")
    }
    values["layer_types"] = [GLOBAL, LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL]
    values["rope_parameters"] = {
        GLOBAL: {"rope_type": "default", "rope_theta": 160_000.0},
        LOCAL: {"rope_type": "default", "rope_theta": 10_000.0},
    }
    return values | changes


def thetas(config: Any) -> tuple[float, float]:
    """Return the RoPE theta of global and of local layers."""
    return config.rope_parameters[GLOBAL]["rope_theta"], config.rope_parameters[LOCAL]["rope_theta"]


def write(folder: Path, values: dict[str, Any], model_type: str = "modernbert") -> Path:
    """Write config.json like a checkpoint on the Hub, and return its directory."""
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **values}), encoding="utf-8")
    return folder


def written(config: Any, folder: Path) -> dict[str, Any]:
    """Save `config` and return its config.json."""
    config.save_pretrained(folder)
    values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return values


def transformers_4_reads(values: dict[str, Any]) -> tuple[list[bool], float, float]:
    """Read a config.json like transformers 4: which layers are global, theta of global and theta of local layers."""
    every = values.get("global_attn_every_n_layers", 3)
    global_theta = values.get("global_rope_theta", 160_000.0)
    local_theta = values.get("local_rope_theta", 10_000.0)
    layers = [layer % every == 0 for layer in range(values["num_hidden_layers"])]
    return layers, global_theta, global_theta if local_theta is None else local_theta


# Reading


@pytest.mark.parametrize("model_type", ["modernbert", "llm-jp-modernbert"])
@pytest.mark.parametrize("values", [old_keys(), new_keys(), {**old_keys(), **new_keys()}], ids=["old", "new", "both"])
def test_old_and_new_keys_are_read(tmp_path: Path, values: dict[str, Any], model_type: str) -> None:
    config = LlmJpModernBertConfig.from_pretrained(write(tmp_path, values, model_type))
    assert config.layer_types == [GLOBAL, LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL]
    assert thetas(config) == (160_000.0, 10_000.0)
    assert config.model_type == "llm-jp-modernbert"


@pytest.mark.parametrize("values", [old_keys(), new_keys(), {}], ids=["old", "new", "empty"])
def test_modernbert_checkpoint_is_read_like_transformers(tmp_path: Path, values: dict[str, Any]) -> None:
    """Missing keys get ModernBERT's defaults, not ours."""
    write(tmp_path, values)
    own, peer = LlmJpModernBertConfig.from_pretrained(tmp_path), ModernBertConfig.from_pretrained(tmp_path)
    expected = {key: value for key, value in peer.to_dict().items() if key != "transformers_version"}
    settings = own.to_dict()
    assert {key: settings[key] for key in expected} == expected


@pytest.mark.parametrize("model_type", ["modernbert", "llm-jp-modernbert"])
def test_null_local_theta_means_global_theta(tmp_path: Path, model_type: str) -> None:
    values = old_keys(global_rope_theta=50_000.0, local_rope_theta=None)
    config = LlmJpModernBertConfig.from_pretrained(write(tmp_path, values, model_type))
    assert thetas(config) == (50_000.0, 50_000.0)
    assert thetas(LlmJpModernBertConfig(**values)) == (50_000.0, 50_000.0)


@pytest.mark.parametrize(("model_type", "expected"), [("modernbert", 160_000.0), ("llm-jp-modernbert", 10_000.0)])
def test_missing_thetas_get_default_of_model_type(tmp_path: Path, model_type: str, expected: float) -> None:
    values = {key: value for key, value in old_keys(local_rope_theta=None).items() if key != "global_rope_theta"}
    config = LlmJpModernBertConfig.from_pretrained(write(tmp_path, values, model_type))
    assert thetas(config) == (expected, expected)


def test_new_keys_take_precedence_like_transformers_5(tmp_path: Path) -> None:
    values = {**old_keys(global_attn_every_n_layers=2, global_rope_theta=1.0, local_rope_theta=2.0), **new_keys()}
    write(tmp_path, values)
    own, peer = LlmJpModernBertConfig.from_pretrained(tmp_path), ModernBertConfig.from_pretrained(tmp_path)
    assert own.layer_types == peer.layer_types == values["layer_types"]
    assert thetas(own) == thetas(peer) == (160_000.0, 10_000.0)


@pytest.mark.parametrize("source", ["arguments", "modernbert", "llm-jp-modernbert"])
def test_settings_passed_when_loading_are_used(tmp_path: Path, source: str) -> None:
    changes = {"num_labels": 7, "attention_dropout": 0.25, "local_attention": 32, "max_position_embeddings": 99}
    if source == "arguments":
        config = LlmJpModernBertConfig(**old_keys(**changes))
    else:
        config = LlmJpModernBertConfig.from_pretrained(write(tmp_path, old_keys(), source), **changes)
    assert {key: getattr(config, key) for key in changes} == changes


# Writing


@pytest.mark.parametrize("checkpoint_format", ["plain", "native"])
@pytest.mark.parametrize(
    "values", [old_keys(), old_keys(local_rope_theta=None), old_keys(global_attn_every_n_layers=2)]
)
def test_old_and_new_keys_are_written(tmp_path: Path, values: dict[str, Any], checkpoint_format: str) -> None:
    """transformers 4, which reads old keys only, reads the same model."""
    config = LlmJpModernBertConfig(**values, checkpoint_format=checkpoint_format)
    values = written(config, tmp_path)
    assert values["model_type"] == ("modernbert" if checkpoint_format == "plain" else "llm-jp-modernbert")
    assert values["layer_types"] == config.layer_types
    assert values["rope_parameters"] == config.rope_parameters
    layers = [kind == GLOBAL for kind in config.layer_types]
    assert transformers_4_reads(values) == (layers, *thetas(config))
    assert "checkpoint_format" not in values


def test_irregular_layer_types_have_no_old_key(tmp_path: Path) -> None:
    config = LlmJpModernBertConfig(**new_keys(layer_types=[LOCAL, GLOBAL] * 3))
    assert config.global_attn_every_n_layers is None
    assert "global_attn_every_n_layers" not in written(config, tmp_path)
    assert LlmJpModernBertConfig.from_pretrained(tmp_path).layer_types == [LOCAL, GLOBAL] * 3


@pytest.mark.parametrize(
    ("values", "every"), [([GLOBAL] * 6, 1), ([GLOBAL] + [LOCAL] * 5, 6), ([GLOBAL, LOCAL] * 3, 2)]
)
def test_global_attn_every_n_layers_is_derived_from_layer_types(values: list[str], every: int) -> None:
    assert LlmJpModernBertConfig(**new_keys(layer_types=values)).global_attn_every_n_layers == every


@pytest.mark.parametrize("values", [old_keys(), new_keys(), new_keys(layer_types=[LOCAL, GLOBAL] * 3), {}])
def test_round_trip_through_transformers(tmp_path: Path, values: dict[str, Any]) -> None:
    """A plain configuration read and saved by transformers, then read here, is unchanged."""
    first = LlmJpModernBertConfig(**values, checkpoint_format="plain")
    first.save_pretrained(tmp_path / "own")
    ModernBertConfig.from_pretrained(tmp_path / "own").save_pretrained(tmp_path / "peer")
    second = LlmJpModernBertConfig.from_pretrained(tmp_path / "peer")
    assert second.to_dict() == first.to_dict()
    assert second.checkpoint_format == "plain"


@pytest.mark.parametrize("checkpoint_format", ["plain", "native"])
def test_round_trip_keeps_checkpoint_format(tmp_path: Path, checkpoint_format: str) -> None:
    first = LlmJpModernBertConfig(**old_keys(), checkpoint_format=checkpoint_format)
    first.save_pretrained(tmp_path)
    second = LlmJpModernBertConfig.from_pretrained(tmp_path)
    assert second.checkpoint_format == checkpoint_format
    assert second.to_dict() == first.to_dict()


def test_thetas_can_be_set_by_old_names() -> None:
    config = LlmJpModernBertConfig(**old_keys())
    config.global_rope_theta, config.local_rope_theta = 1e6, 2e4
    assert thetas(config) == (config.global_rope_theta, config.local_rope_theta) == (1e6, 2e4)
    assert (config.to_dict()["global_rope_theta"], config.to_dict()["local_rope_theta"]) == (1e6, 2e4)


def test_layer_types_can_be_set_by_old_name(tmp_path: Path) -> None:
    write(tmp_path, old_keys())
    config = LlmJpModernBertConfig.from_pretrained(tmp_path, global_attn_every_n_layers=2)
    assert config.layer_types == [GLOBAL, LOCAL] * 3
    assert config.global_attn_every_n_layers == 2


def test_wrong_number_of_layer_types_raises() -> None:
    with pytest.raises(Exception, match=r"num_hidden_layers.*6.*layer_types.*4"):
        LlmJpModernBertConfig(**new_keys(layer_types=[GLOBAL] * 4))


def test_hidden_size_not_divisible_by_heads_raises() -> None:
    with pytest.raises(ValueError, match=r"hidden_size=64.*num_attention_heads=5"):
        own_class("Model")(LlmJpModernBertConfig(**settings(num_attention_heads=5)))


# Parameters

# Published models of the architecture.
FAMILY = {
    "sbintuitions/modernbert-ja-30m": (256, 10, 1024, 4, 102_400),
    "sbintuitions/modernbert-ja-70m": (384, 13, 1536, 6, 102_400),
    "sbintuitions/modernbert-ja-130m": (512, 19, 2048, 8, 102_400),
    "sbintuitions/modernbert-ja-310m": (768, 25, 3072, 12, 102_400),
    "answerdotai/ModernBERT-base": (768, 22, 1152, 12, 50_368),
    "answerdotai/ModernBERT-large": (1024, 28, 2624, 16, 50_368),
}


@pytest.mark.parametrize("name", FAMILY)
def test_published_shapes_have_parameters_of_transformers(tmp_path: Path, name: str) -> None:
    hidden, layers, intermediate, heads, vocabulary = FAMILY[name]
    write(
        tmp_path,
        {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "intermediate_size": intermediate,
            "num_attention_heads": heads,
            "vocab_size": vocabulary,
            "pad_token_id": 3,
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160_000.0,
            "local_rope_theta": 10_000.0,
        },
    )
    with torch.device("meta"):
        own = LlmJpModernBertForMaskedLM(LlmJpModernBertConfig.from_pretrained(tmp_path))
        peer = peer_class("ForMaskedLM")(ModernBertConfig.from_pretrained(tmp_path))
    assert shapes(own) == shapes(peer)


@pytest.mark.parametrize("head", HEAD_NAMES)
@pytest.mark.parametrize("biases", [True, False])
def test_parameters_equal_transformers(head: str, biases: bool) -> None:
    names = ("norm_bias", "attention_bias", "mlp_bias", "decoder_bias", "classifier_bias")
    values = settings(**dict.fromkeys(names, biases))
    with torch.device("meta"):
        own = own_class(head)(LlmJpModernBertConfig(**values))
        peer = peer_class(head)(ModernBertConfig(**values))
    assert shapes(own) == shapes(peer)


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_defaults_are_base_model_of_paper() -> None:
    config = LlmJpModernBertConfig()
    with torch.device("meta"):
        model = LlmJpModernBertForMaskedLM(config)
    # 76,472,832 embedding, 110.3M encoder, 589,824 + 768 head, 99,574 decoder bias
    assert sum(parameter.numel() for parameter in model.parameters()) == 187_494_646
    assert config.layer_types == [GLOBAL if layer % 3 == 0 else LOCAL for layer in range(22)]
    assert thetas(config) == (10_000.0, 10_000.0)
    assert (config.bos_token_id, config.cls_token_id) == (5, 5)
    assert (config.eos_token_id, config.sep_token_id, config.pad_token_id) == (6, 6, 4)
    assert (config.max_position_embeddings, config.local_attention) == (8192, 128)


WRONG = (
    {"hidden_size": "64"},
    {"num_hidden_layers": 4.0},
    {"num_hidden_layers": 0},
    {"num_hidden_layers": 10**6},
    {"num_hidden_layers": 10**12},
    {"hidden_size": 10**9},
    {"vocab_size": True},
    {"vocab_size": 10**12},
    {"num_attention_heads": 0},
    {"eos_token_id": "6"},
    {"layer_types": "full_attention"},
    {"layer_types": [1, 2, 3, 4]},
    {"layer_types": ["full_attention"] * 3},
    {"rope_parameters": "default"},
    {"rope_parameters": {"full_attention": "default"}},
    {"rope_parameters": {"full_attention": {"rope_theta": "x"}}},
    {"global_attn_every_n_layers": "3"},
    {"global_attn_every_n_layers": 0},
    {"global_rope_theta": None},
    {"local_rope_theta": [1]},
    {"hidden_activation": 3},
    {"classifier_pooling": "max"},
    {"norm_eps": "1e-5"},
    {"id2label": ["a"]},
    {"id2label": {"0": {"name": "a"}}},
    {"num_labels": "3"},
    {"tie_word_embeddings": "no"},
)


@pytest.mark.parametrize("model_type", ["modernbert", "llm-jp-modernbert"])
@pytest.mark.parametrize("values", WRONG, ids=str)
def test_wrong_value_raises_one_line_with_its_key(tmp_path: Path, values: dict[str, Any], model_type: str) -> None:
    write(tmp_path, settings(num_hidden_layers=4) | values, model_type)
    with pytest.raises(ValueError, match=next(iter(values))) as raised:
        LlmJpModernBertConfig.from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"pad_token_id": 500}, "pad_token_id=500"),
        ({"hidden_activation": "nonsense"}, "nonsense"),
        ({"rope_parameters": {"full_attention": {"rope_type": "nonsense"}}}, "rope_parameters.*nonsense"),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": "2"}}}, "rope_parameters.*'factor'"),
    ],
)
def test_value_that_no_model_can_use_raises_one_line(tmp_path: Path, values: dict[str, Any], cause: str) -> None:
    write(tmp_path, settings(num_hidden_layers=4) | values, "llm-jp-modernbert")
    config = LlmJpModernBertConfig.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=cause) as raised:
        LlmJpModernBertForMaskedLM(config)
    assert "\n" not in str(raised.value)


def test_absurd_sizes_raise_at_construction() -> None:
    for sizes in ({"num_hidden_layers": 10**6}, {"hidden_size": 10**7}, {"vocab_size": 10**12}):
        with pytest.raises(ValueError, match=next(iter(sizes))):
            LlmJpModernBertConfig(**sizes)


@pytest.mark.parametrize("layers", [0, 10**9])
def test_impossible_layers_given_to_from_pretrained_are_one_line(layers: int, tmp_path: Path) -> None:
    LlmJpModernBertConfig(num_hidden_layers=3).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"num_hidden_layers={layers}") as error:
        LlmJpModernBertConfig.from_pretrained(tmp_path, num_hidden_layers=layers)
    assert "\n" not in str(error.value)
