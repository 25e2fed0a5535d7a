"""Loading a model for an evaluation keeps the caller's registration for `modernbert` checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM, ModernBertForMaskedLM

from llm_jp_modernbert import (
    LlmJpModernBertForMaskedLM,
    register_for_modernbert,
    unregister_for_modernbert,
)
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.encoders.embeddings import sentence_transformer
from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
from llm_jp_modernbert.evaluation.tasks.finetuning import load_head


@pytest.fixture(params=[True, False])
def expected(request: pytest.FixtureRequest) -> Iterator[type]:
    """The class that the caller has chosen."""
    if request.param:
        register_for_modernbert()
    yield LlmJpModernBertForMaskedLM if request.param else ModernBertForMaskedLM
    unregister_for_modernbert()


def test_registration_is_kept(expected: type, modernbert: Path) -> None:
    model = EvaluatedModel(ModelName(str(modernbert), device="cpu"))
    sentence_transformer(model)
    load_head(model, "AutoModelForSequenceClassification", {"num_labels": 2})
    with pytest.raises(UsageError):
        load_head(model, "AutoModelForTokenClassification", {"num_hidden_layers": "many"})
    assert type(AutoModelForMaskedLM.from_pretrained(modernbert)) is expected
