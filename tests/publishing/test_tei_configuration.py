"""A saved model has the files and settings that text-embeddings-inference reads.

The server is a Rust program that cannot be installed here. Its settings are those of `ModernBertConfig` in
backends/candle/src/models/modernbert.rs at commit 04f5d63 of huggingface/text-embeddings-inference, and of
`ModelConfig`, `PoolConfig` and `STConfig` in its router/src/lib.rs. serde refuses a file that lacks a required field
or has another type.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_model
from safetensors import safe_open
from sentence_models import write_sentence_model
from tokenizers import Tokenizer

from llm_jp_modernbert.inference.heads import MASKED_LM, SEQUENCE_CLASSIFICATION
from llm_jp_modernbert.inference.retrieval.layout import make_portable

# Rust's types: usize and f64 are numbers without and with fraction.
USIZE, F64, BOOL, I64, TEXT = "usize", "f64", "bool", "i64", "text"
REQUIRED = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"), USIZE),
    **dict.fromkeys(("num_attention_heads", "max_position_embeddings"), USIZE),
    **dict.fromkeys(("pad_token_id", "eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id"), USIZE),
    **dict.fromkeys(("global_attn_every_n_layers", "local_attention"), USIZE),
    **dict.fromkeys(("initializer_range", "initializer_cutoff_factor", "norm_eps"), F64),
    # transformers 5 writes these two into rope_parameters only.
    **dict.fromkeys(("global_rope_theta", "local_rope_theta"), F64),
    "attention_dropout": F64,
    **dict.fromkeys(("norm_bias", "attention_bias"), BOOL),
    **dict.fromkeys(("hidden_activation", "classifier_activation"), TEXT),
}
# May be missing or null.
OPTIONAL = {
    **dict.fromkeys(("embedding_dropout", "mlp_dropout", "classifier_dropout"), F64),
    **dict.fromkeys(("mlp_bias", "decoder_bias", "classifier_bias"), BOOL),
    **dict.fromkeys(("deterministic_flash_attn", "sparse_prediction", "reference_compile"), BOOL),
    "classifier_pooling": TEXT,
    "sparse_pred_ignore_index": I64,
    "num_labels": USIZE,
}
ACTIVATIONS, POOLINGS = ("gelu", "relu"), ("cls", "mean")
# The names of weights begin with `model.` or not.
WEIGHTS = (
    "embeddings.tok_embeddings.weight",
    "embeddings.norm.weight",
    "layers.0.attn.Wqkv.weight",
    "final_norm.weight",
)


def is_a(kind: str, value: Any) -> bool:
    """Whether serde reads a JSON value as a type."""
    if kind in (BOOL, TEXT):
        return isinstance(value, bool if kind == BOOL else str)
    if isinstance(value, bool) or not isinstance(value, int if kind in (USIZE, I64) else (int, float)):
        return False
    return kind != USIZE or value >= 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A masked language model, a classifier, and an embedder as it is released."""
    root = tmp_path_factory.mktemp("models")
    embedder = write_sentence_model(root / "embedder", "SentenceTransformer")
    make_portable(embedder)
    return {
        "masked-lm": write_model(root / "masked-lm", MASKED_LM),
        "classifier": write_model(root / "classifier", SEQUENCE_CLASSIFICATION),
        "embedder": embedder,
    }


@pytest.mark.parametrize("kind", ["masked-lm", "classifier", "embedder"])
def test_configuration_has_every_field(folders: dict[str, Path], kind: str) -> None:
    config = json.loads((folders[kind] / "config.json").read_text("utf-8"))
    assert config["model_type"] == "modernbert"
    wrong = {name: config.get(name) for name, type_ in REQUIRED.items() if not is_a(type_, config.get(name))}
    assert not wrong
    given = {name: config[name] for name in OPTIONAL if config.get(name) is not None}
    assert {name for name, value in given.items() if not is_a(OPTIONAL[name], value)} == set()
    assert config["hidden_activation"] in ACTIVATIONS
    assert config["classifier_pooling"] in POOLINGS
    thetas = config["rope_parameters"]
    assert config["global_rope_theta"] == thetas["full_attention"]["rope_theta"]
    assert config["local_rope_theta"] == thetas["sliding_attention"]["rope_theta"]
    every = config["global_attn_every_n_layers"]
    assert [number % every == 0 for number in range(config["num_hidden_layers"])] == [
        layer == "full_attention" for layer in config["layer_types"]
    ]


@pytest.mark.parametrize("kind", ["masked-lm", "classifier", "embedder"])
def test_tokenizer_and_weights_have_the_expected_names(folders: dict[str, Path], kind: str) -> None:
    Tokenizer.from_file(str(folders[kind] / "tokenizer.json"))
    with safe_open(folders[kind] / "model.safetensors", "pt") as file:
        tensors = list(file.keys())
        names = {name.removeprefix("model.") for name in tensors}
        assert set(WEIGHTS) <= names
        assert {file.get_slice(name).get_dtype() for name in tensors} <= {"F32", "F16", "BF16"}
    if kind == "classifier":
        assert {"head.dense.weight", "head.norm.weight", "classifier.weight", "classifier.bias"} <= names


def test_classifier_names_its_labels(folders: dict[str, Path]) -> None:
    config = json.loads((folders["classifier"] / "config.json").read_text("utf-8"))
    assert all(isinstance(name, str) for name in config["id2label"].values())
    assert {name: int(number) for number, name in config["id2label"].items()} == config["label2id"]


def test_embedder_has_poolings_under_their_old_names(folders: dict[str, Path]) -> None:
    pooling = json.loads((folders["embedder"] / "1_Pooling" / "config.json").read_text("utf-8"))
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    assert all(is_a(BOOL, pooling[f"pooling_mode_{mode}"]) for mode in modes)
    assert pooling["pooling_mode_cls_token"]
    settings = json.loads((folders["embedder"] / "sentence_bert_config.json").read_text("utf-8"))
    assert is_a(USIZE, settings["max_seq_length"])
