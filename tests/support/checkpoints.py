"""Small checkpoints with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_models import tiny_config

import llm_jp_modernbert
from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.inference.heads import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Head
from llm_jp_modernbert.tokenization import train_stand_in

TEXTS = [
    "今日のご飯はカレーである。",
    "明日の朝は早く起きて、駅まで歩いて行きます。",
    "吾輩は猫である。名前はまだ無い。",
]


def write_checkpoint(
    path: Path, checkpoint_format: str = "plain", texts: Sequence[str] = TEXTS, **settings: Any
) -> Path:
    """Saves a model whose random weights give distinct predictions, and a tokenizer trained on the texts."""
    tokenizer = train_stand_in(list(texts) * 20, vocab_size=305)
    torch.manual_seed(0)
    config = tiny_config(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.3, **settings)
    model = LlmJpModernBertForMaskedLM(config)
    model.save_pretrained(path, format=checkpoint_format)
    tokenizer.save_pretrained(path)
    return path


LABELS = ("否定", "中立", "肯定")


def write_model(path: Path, head: Head, checkpoint_format: str = "plain", **settings: Any) -> Path:
    """Saves a model with a head and random weights, which reads 256 tokens, and its tokenizer."""
    tokenizer = train_stand_in(TEXTS * 20, vocab_size=305)
    if head in (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION):
        settings = {"id2label": dict(enumerate(LABELS)), **settings}
        settings["label2id"] = {name: number for number, name in settings["id2label"].items()}
    torch.manual_seed(0)
    settings = {"num_hidden_layers": 2, **settings}
    config = tiny_config(vocab_size=len(tokenizer), max_position_embeddings=256, initializer_range=0.3, **settings)
    getattr(llm_jp_modernbert, f"LlmJpModernBert{head.suffix}")(config).save_pretrained(path, format=checkpoint_format)
    tokenizer.model_max_length = 256
    tokenizer.save_pretrained(path)
    return path
