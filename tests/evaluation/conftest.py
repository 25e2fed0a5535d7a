"""Tiny models of several families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName


@pytest.fixture(scope="session")
def bert(modernbert: Path) -> Path:
    """A BERT with the same tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    path = modernbert.with_name("bert")
    BertForMaskedLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session", params=["modernbert", "bert"])
def any_model(request: pytest.FixtureRequest) -> EvaluatedModel:
    """Each family in turn."""
    return EvaluatedModel(ModelName(str(request.getfixturevalue(request.param)), device="cpu"))
