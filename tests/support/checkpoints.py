"""Small checkpoints with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from llm_jp_modernbert import LlmJpModernBertConfig, LlmJpModernBertForMaskedLM
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
    model = LlmJpModernBertForMaskedLM(
        LlmJpModernBertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=64,
            local_attention=16,
            initializer_range=0.3,
        )
    )
    model.save_pretrained(path, format=checkpoint_format)
    tokenizer.save_pretrained(path)
    return path
