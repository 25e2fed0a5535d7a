"""Small checkpoints with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_models import tiny_config

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.tokenization import train_stand_in

TEXTS = [
    "今日のご飯はカレーである。",
    "明日の朝は早く起きて、駅まで歩いて行きます。",
    "吾輩は猫である。名前はまだ無い。",
]


def write_checkpoint(path: Path, checkpoint_format: str = "plain", texts: Sequence[str] = TEXTS) -> Path:
    """Saves a model whose random weights give distinct predictions, and a tokenizer trained on the texts."""
    tokenizer = train_stand_in(list(texts) * 20, vocab_size=305)
    torch.manual_seed(0)
    config = tiny_config(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.3)
    model = LlmJpModernBertForMaskedLM(config)
    model.save_pretrained(path, format=checkpoint_format)
    tokenizer.save_pretrained(path)
    return path
