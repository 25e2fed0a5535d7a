"""The context length of every family of models equals what the model really reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from llm_jp_modernbert.inference.loading import context_length

UNLIMITED: Any = SimpleNamespace(model_max_length=10**30)
POSITIONS = 20
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
    "roberta-prelayernorm": {},
    "camembert": {},
    "luke": {"entity_vocab_size": 10},
    "longformer": {"attention_window": 4},
    "mpnet": {},
    "xmod": {"languages": ["ja"], "default_language": "ja"},
    "data2vec-text": {},
    "ibert": {},
    "esm": {},
    "electra": {"embedding_size": 32},
    "albert": {"embedding_size": 32},
    "deberta-v2": {},
    "nystromformer": {},
    "bart": {},
    "roformer": {},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_context_length_is_the_longest_input_of_the_model(family: str) -> None:
    config = AutoConfig.for_model(
        family, vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=POSITIONS, pad_token_id=1, bos_token_id=0, eos_token_id=2, **FAMILIES[family],
    )  # fmt: skip
    length = context_length(config, UNLIMITED)
    model = AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        model(input_ids=torch.full((1, length), 5))
        with pytest.raises((RuntimeError, IndexError)):
            model(input_ids=torch.full((1, length + 1), 5))


def test_tokenizer_limits_models_without_a_table_of_positions() -> None:
    tokenizer: Any = SimpleNamespace(model_max_length=77)
    assert context_length(AutoConfig.for_model("t5"), tokenizer) == 77
    assert context_length(AutoConfig.for_model("modernbert", max_position_embeddings=64), tokenizer) == 64
    assert context_length(AutoConfig.for_model("modernbert", max_position_embeddings=640), tokenizer) == 77
