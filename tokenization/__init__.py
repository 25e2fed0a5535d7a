"""The llm-jp tokenizer for masked language models."""

from __future__ import annotations

from .check import Check, check_fits, check_tokenizer, match_length
from .files import build_tokenizer, write_tokenizer
from .stand_in import train_stand_in
from .tokenization_llm_jp import LlmJpTokenizer

__all__ = [
    "Check",
    "LlmJpTokenizer",
    "build_tokenizer",
    "check_fits",
    "check_tokenizer",
    "match_length",
    "train_stand_in",
    "write_tokenizer",
]
