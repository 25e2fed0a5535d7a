"""Plain and native checkpoints of the same weights, and the classes that load them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peer import HEAD_NAMES, assert_close, documents, own_class, pair, peer_class, settings
from transformers import AutoConfig, AutoTokenizer, ModernBertConfig

import llm_jp_modernbert
from llm_jp_modernbert import LlmJpModernBertConfig

AUTO_CLASSES = {
    "AutoModel": "Model",
    "AutoModelForMaskedLM": "ForMaskedLM",
    "AutoModelForPreTraining": "ForMaskedLM",
    "AutoModelForSequenceClassification": "ForSequenceClassification",
    "AutoModelForTokenClassification": "ForTokenClassification",
    "AutoModelForQuestionAnswering": "ForQuestionAnswering",
    "AutoModelForMultipleChoice": "ForMultipleChoice",
}
PLAIN, NATIVE = "modernbert", "llm-jp-modernbert"
# The memory address of weights may change the order of sums.
EXACT = 1e-6


def written(folder: Path) -> tuple[str, list[str]]:
    """Return model type and architectures of a saved model."""
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return values["model_type"], values["architectures"]


def output(model: Any, head: str) -> torch.Tensor:
    """Return the first output of a head for two documents."""
    input_ids = torch.stack(documents(130, 130))
    with torch.no_grad():
        return model(input_ids=input_ids[None] if head == "ForMultipleChoice" else input_ids)[0]


def load_completely(model_class: Any, folder: Path) -> Any:
    """Load a model from a file that has exactly its parameters."""
    model, report = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_round_trip_of_transformers_checkpoint(tmp_path: Path, head: str) -> None:
    """transformers' checkpoint, loaded and saved here, is the same file, and transformers loads it."""
    _, peer = pair(head)
    peer.save_pretrained(tmp_path / "peer")
    own = load_completely(own_class(head), tmp_path / "peer")
    assert_close(output(own, head), output(peer, head))
    own.save_pretrained(tmp_path / "own")
    assert written(tmp_path / "own") == (PLAIN, [f"ModernBert{head}"])
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("peer", "own")]
    assert weights[0] == weights[1]
    assert_close(output(load_completely(peer_class(head), tmp_path / "own"), head), output(peer, head), EXACT)


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_new_models_save_native_by_default_and_plain_on_request(tmp_path: Path, head: str) -> None:
    own, _ = pair(head)
    own.save_pretrained(tmp_path / "native")
    assert written(tmp_path / "native") == (NATIVE, [f"LlmJpModernBert{head}"])
    assert_close(output(load_completely(own_class(head), tmp_path / "native"), head), output(own, head), EXACT)
    own.save_pretrained(tmp_path / "plain", format="plain")
    assert written(tmp_path / "plain") == (PLAIN, [f"ModernBert{head}"])
    peer = load_completely(peer_class(head), tmp_path / "plain")
    assert_close(output(peer, head), output(own, head))
    # The format of one call does not change the default.
    own.save_pretrained(tmp_path / "again")
    assert written(tmp_path / "again") == (NATIVE, [f"LlmJpModernBert{head}"])


def test_plain_models_save_native_on_request(tmp_path: Path) -> None:
    pair("ForMaskedLM")[1].save_pretrained(tmp_path / "peer")
    own = own_class("ForMaskedLM").from_pretrained(tmp_path / "peer")
    own.save_pretrained(tmp_path / "native", format="native")
    assert written(tmp_path / "native") == (NATIVE, ["LlmJpModernBertForMaskedLM"])
    loaded = load_completely(own_class("ForMaskedLM"), tmp_path / "native")
    assert loaded.config.rope_parameters == own.config.rope_parameters
    assert_close(output(loaded, "ForMaskedLM"), output(own, "ForMaskedLM"), EXACT)


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_models_built_from_modernbert_config_save_plain(tmp_path: Path, head: str) -> None:
    """Loaded with the configuration of AutoConfig, like transformers' scripts do, and new models."""
    peer = pair(head, peer_implementation="eager")[1]
    peer.save_pretrained(tmp_path / "peer")
    config = AutoConfig.from_pretrained(tmp_path / "peer", attn_implementation="eager")
    assert type(config) is ModernBertConfig
    loaded = own_class(head).from_pretrained(tmp_path / "peer", config=config)
    assert loaded.config._attn_implementation == "eager"
    assert all(module.config is loaded.config for module in loaded.modules() if hasattr(module, "config"))
    assert_close(output(loaded, head), output(peer, head))
    for model, folder in ((loaded, tmp_path / "loaded"), (own_class(head)(config), tmp_path / "new")):
        model.save_pretrained(folder)
        assert written(folder) == (PLAIN, [f"ModernBert{head}"])
    assert_close(output(load_completely(peer_class(head), tmp_path / "loaded"), head), output(peer, head))


def test_unknown_format_raises_and_writes_nothing(tmp_path: Path) -> None:
    own, _ = pair("Model")
    with pytest.raises(ValueError, match="format='onnx' is neither 'plain' nor 'native'"):
        own.save_pretrained(tmp_path / "folder", format="onnx")
    assert not (tmp_path / "folder").exists()


def test_checkpoint_dtype_is_loaded(tmp_path: Path) -> None:
    own, _ = pair("ForMaskedLM")
    own.to(torch.bfloat16).save_pretrained(tmp_path, format="plain")
    for model_class in (own_class("ForMaskedLM"), peer_class("ForMaskedLM")):
        assert model_class.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16
        assert model_class.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rope_frequencies_are_float32_after_loading(tmp_path: Path, dtype: torch.dtype) -> None:
    """Checkpoints do not contain the frequencies."""
    own, _ = pair("Model")
    own.save_pretrained(tmp_path)
    loaded = own_class("Model").from_pretrained(tmp_path, dtype=dtype)
    for name, frequencies in own.rotary_emb.named_buffers():
        loaded_frequencies = loaded.rotary_emb.get_buffer(name)
        assert loaded_frequencies.dtype == torch.float32
        assert torch.equal(loaded_frequencies, frequencies)


# Auto classes


@pytest.mark.parametrize(
    ("name", "model_type"),
    # transformers has no ModernBERT class for pre-training.
    [
        (name, kind)
        for kind in (PLAIN, NATIVE)
        for name in AUTO_CLASSES
        if (kind, name) != (PLAIN, "AutoModelForPreTraining")
    ],
)
def test_auto_classes_choose_by_model_type(tmp_path: Path, name: str, model_type: str) -> None:
    own, peer = pair(AUTO_CLASSES[name])
    (own if model_type == NATIVE else peer).save_pretrained(tmp_path)
    expected = own if model_type == NATIVE else peer
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(expected.config)
    model = getattr(transformers, name).from_pretrained(tmp_path)
    assert type(model) is type(expected)
    assert_close(output(model, AUTO_CLASSES[name]), output(expected, AUTO_CLASSES[name]), EXACT)


@pytest.fixture
def registered() -> Iterator[None]:
    """Register this package for `modernbert` checkpoints during the test."""
    llm_jp_modernbert.register_for_modernbert()
    yield
    llm_jp_modernbert.unregister_for_modernbert()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", AUTO_CLASSES)
def test_registered_package_loads_modernbert_checkpoints(tmp_path: Path, name: str) -> None:
    head = AUTO_CLASSES[name]
    _, peer = pair(head)
    peer.save_pretrained(tmp_path / "peer")
    model = getattr(transformers, name).from_pretrained(tmp_path / "peer")
    assert type(model) is own_class(head)
    model.save_pretrained(tmp_path / "own")
    assert written(tmp_path / "own") == (PLAIN, [f"ModernBert{head}"])


def test_registration_can_be_repeated_and_undone(tmp_path: Path) -> None:
    _, peer = pair("ForMaskedLM")
    peer.save_pretrained(tmp_path)
    for _ in range(2):
        for _ in range(2):
            llm_jp_modernbert.register_for_modernbert()
        assert type(AutoConfig.from_pretrained(tmp_path)) is LlmJpModernBertConfig
        for _ in range(2):
            llm_jp_modernbert.unregister_for_modernbert()
        assert type(AutoConfig.from_pretrained(tmp_path)) is ModernBertConfig
        assert type(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)) is type(peer)


@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "LlamaTokenizer", "T5Tokenizer", None])
def test_registration_does_not_change_tokenizers(tmp_path: Path, tokenizer_class: str | None) -> None:
    """The tokenizer of a `modernbert` checkpoint has the same class and ids, for any `tokenizer_class`."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -3.0), ("東", -1.0), ("京", -1.5), ("東京", -2.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    ModernBertConfig(**settings()).save_pretrained(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    values = {"unk_token": "<unk>"} | ({"tokenizer_class": tokenizer_class} if tokenizer_class else {})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")

    before = AutoTokenizer.from_pretrained(tmp_path)
    llm_jp_modernbert.register_for_modernbert()
    try:
        after = AutoTokenizer.from_pretrained(tmp_path)
    finally:
        llm_jp_modernbert.unregister_for_modernbert()
    assert type(after) is type(before)
    assert after("東京 東").input_ids == before("東京 東").input_ids


# Importing

RESOLVES = """
config = AutoConfig.for_model("llm-jp-modernbert", vocab_size=50, hidden_size=16, num_hidden_layers=2,
                              num_attention_heads=2, intermediate_size=8, pad_token_id=0)
assert type(config) is llm_jp_modernbert.LlmJpModernBertConfig
assert type(AutoModel.from_config(config)) is llm_jp_modernbert.LlmJpModernBertModel
assert type(AutoModelForMaskedLM.from_config(config)) is llm_jp_modernbert.LlmJpModernBertForMaskedLM
"""
OWN = "import llm_jp_modernbert\n"
THEIRS = "from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM\n"


@pytest.mark.parametrize(
    "code",
    [
        f"import sys\n{OWN}assert not {{'torch', 'transformers'}} & set(sys.modules), 'imports too much'",
        OWN + THEIRS + RESOLVES,
        THEIRS + OWN + RESOLVES,
        "from transformers import pipeline, Trainer\n" + OWN + THEIRS + RESOLVES,
    ],
    ids=["alone", "before transformers", "after transformers", "after its models"],
)
def test_import_order_does_not_matter_and_prints_nothing(code: str) -> None:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
