"""Types of retrieval models by their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentence_transformers
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

from llm_jp_modernbert import LlmJpModernBertModel
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.inference.retrieval.loading import load_retrieval_model, type_of


@pytest.mark.parametrize("model_class", [SentenceTransformer, SparseEncoder, MultiVectorEncoder, CrossEncoder])
def test_saved_models_load_as_their_type_with_the_packed_class(
    model_class: Any, modernbert: Path, tmp_path: Path
) -> None:
    settings = {"num_labels": 1} if model_class is CrossEncoder else {}
    model_class(str(modernbert), device="cpu", **settings).save(str(tmp_path))
    model = load_retrieval_model(str(tmp_path), "cpu")
    assert isinstance(model, model_class)
    encoder = model[0].model
    assert isinstance(getattr(encoder, "model", encoder), LlmJpModernBertModel)


@pytest.mark.parametrize(
    ("config", "settings", "wanted"),
    [
        ({"architectures": ["ModernBertForMaskedLM"]}, None, "SentenceTransformer"),
        ({}, None, "SentenceTransformer"),
        ({}, {}, "SentenceTransformer"),
        ({}, {"model_type": "SparseEncoder"}, "SparseEncoder"),
        ({}, {"model_type": "ColBERT"}, "MultiVectorEncoder"),
        ({"architectures": ["HF_ColBERT"]}, None, "MultiVectorEncoder"),
        ({"architectures": ["XLMRobertaForSequenceClassification"]}, None, "CrossEncoder"),
    ],
)
def test_type_follows_the_files(
    config: dict[str, Any], settings: dict[str, Any] | None, wanted: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if settings is not None:
        (tmp_path / "modules.json").write_text("[]")
        (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert type_of(ModelReference(str(tmp_path))) == wanted


def test_unknown_type_is_reported(tmp_path: Path) -> None:
    for name, content in (("config", {}), ("modules", []), ("config_sentence_transformers", {"model_type": "Oracle"})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert not hasattr(sentence_transformers, "Oracle")
    with pytest.raises(UsageError, match=r"cannot be loaded.*Oracle"):
        load_retrieval_model(str(tmp_path))
