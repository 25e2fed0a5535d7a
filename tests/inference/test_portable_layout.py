"""Models of sentence-transformers are rewritten in the layout of version 5.1, which newer versions read alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentence_transformers
import torch
from checkpoints import TEXTS
from sentence_models import KINDS, PROMPTS, write_sentence_model

from llm_jp_modernbert.core.plain_reload import embeddings_of
from llm_jp_modernbert.inference.retrieval.layout import make_portable

# Files that version 5.1.2 with transformers 4.57.6 saves for these models, without versions.
WRITTEN_BY_5_1_2: dict[str, dict[str, Any]] = {
    "SentenceTransformer": {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
            {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": PROMPTS,
            "default_prompt_name": "document",
            "similarity_fn_name": "dot",
        },
        "sentence_bert_config.json": {"max_seq_length": 100, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": 32,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": False,
            "include_prompt": True,
        },
        "2_Dense/config.json": {
            "in_features": 32,
            "out_features": 16,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
    },
    "CrossEncoder": {},
    "SparseEncoder": {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.sparse_encoder.models.MLMTransformer"},
            {
                "idx": 1,
                "name": "1",
                "path": "1_SpladePooling",
                "type": "sentence_transformers.sparse_encoder.models.SpladePooling",
            },
        ],
        "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
        "1_SpladePooling/config.json": {
            "pooling_strategy": "max",
            "activation_function": "relu",
            "word_embedding_dimension": None,
        },
    },
    "MultiVectorEncoder": {},
}


def content(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def outputs(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """Outputs of the installed version: scores, or embeddings with each prompt and their similarities."""
    return embeddings_of(getattr(sentence_transformers, kind)(str(folder), device="cpu"), TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_portable_layout_is_that_of_5_1_and_keeps_all_outputs(
    kind: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    saved = write_sentence_model(tmp_path / "saved", kind)
    portable = Path(shutil.copytree(saved, tmp_path / "portable"))
    make_portable(portable)
    for name, expected in WRITTEN_BY_5_1_2[kind].items():
        assert content(portable / name) == expected, name
    config, tokenizer = content(portable / "config.json"), content(portable / "tokenizer_config.json")
    assert (config["model_type"], tokenizer["tokenizer_class"]) == ("modernbert", "PreTrainedTokenizerFast")
    assert config["global_rope_theta"] == config["rope_parameters"]["full_attention"]["rope_theta"]
    assert config["local_rope_theta"] == config["rope_parameters"]["sliding_attention"]["rope_theta"]
    assert config["global_attn_every_n_layers"] == 2
    assert "__version__" not in content(portable / "config_sentence_transformers.json")
    recwarn.clear()
    before, after = outputs(saved, kind), outputs(portable, kind)
    assert not [warning for warning in recwarn if issubclass(warning.category, FutureWarning)]
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=0)
    first = {path: path.read_bytes() for path in portable.rglob("*") if path.is_file()}
    make_portable(portable)
    assert {path: path.read_bytes() for path in portable.rglob("*") if path.is_file()} == first


def test_earlier_versions_find_the_activation_function_of_a_reranker(tmp_path: Path) -> None:
    """They read it from config.json."""
    folder = write_sentence_model(tmp_path / "reranker", "CrossEncoder")
    make_portable(folder)
    assert content(folder / "config.json")["sentence_transformers"] == {
        "activation_fn": "torch.nn.modules.linear.Identity"
    }


def test_tokenizer_forgets_the_last_batch_and_keeps_special_tokens(tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "model", "SparseEncoder")
    tokenizer = sentence_transformers.SparseEncoder(str(folder), device="cpu").tokenizer
    tokenizer.add_special_tokens({"extra_special_tokens": ["<EOD|LLM-jp>"]})
    tokenizer(TEXTS, padding=True, truncation=True, max_length=5)
    tokenizer.save_pretrained(folder)
    make_portable(folder)
    saved = content(folder / "tokenizer.json")
    assert (saved["truncation"], saved["padding"]) == (None, None)
    # transformers 4 expects a dictionary in `extra_special_tokens`.
    assert content(folder / "tokenizer_config.json")["additional_special_tokens"] == ["<EOD|LLM-jp>"]
    loaded = sentence_transformers.SparseEncoder(str(folder), device="cpu").tokenizer
    assert loaded.extra_special_tokens == ["<EOD|LLM-jp>"]


@pytest.mark.parametrize("modes", [("max", "mean"), ("mean", "max")])
def test_concatenated_poolings_keep_their_order(modes: tuple[str, ...], tmp_path: Path) -> None:
    """Earlier versions have one order; another one cannot be stated in their layout."""
    folder = write_sentence_model(tmp_path / "model", "SentenceTransformer")
    pooling = {**content(folder / "1_Pooling" / "config.json"), "pooling_mode": modes}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    make_portable(folder)
    assert tuple(sentence_transformers.SentenceTransformer(str(folder), device="cpu")[1].pooling_mode) == modes
