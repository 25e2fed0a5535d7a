"""Tiny models of several families, and small data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import TEXTS, write_checkpoint
from evaluation_data import WORDS, write_data
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName


@pytest.fixture(scope="session")
def modernbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `modernbert` checkpoint, which transformers' own class loads as well."""
    words = ["".join(WORDS[number:] + WORDS[:number]) for number in range(len(WORDS))]
    return write_checkpoint(tmp_path_factory.mktemp("models") / "modernbert", texts=[*TEXTS, *words])


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


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data."""
    return write_data(tmp_path_factory.mktemp("small-data"))
