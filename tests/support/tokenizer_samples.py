"""Texts and models for the tests of the tokenizer."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import sentencepiece

MODELS = {"v3.0": "llm-jp-tokenizer-100k.ver3.0b1.model", "v3.1": "llm-jp-tokenizer-100k.ver3.1.model"}

SENTENCES = [
    "今日のご飯はカレーである。",
    "明日は雨が降るでしょう。傘を持って出かけた方がいい。",
    "日本語の文章を単語に分けるのは、案外むずかしい。",
    "東京から大阪まで新幹線で二時間半かかります。",
    "彼は「もう帰る」と言って、席を立った。",
    "猫が窓辺で眠っている。犬は庭を走っている。",
    "この本は読みやすく、図も多いので、初めての人に向いている。",
    "I drink tea in the morning, and coffee in the afternoon.",
    "The model reads 8192 tokens at once.",
    "価格は1,280円（税込）です。",
]
"""Training text of the small model."""

ODD_TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    "\t",
    " こんにちは",
    "  こんにちは  ",
    "\nこんにちは",
    "\n\n 一\n 二\n",
    "一行目\r\n二行目\r\n",
    "\tタブ\tタブ",
    "　全角の空白　",
    "ＡＢＣ１２３",
    "ｱｲｳｴｵ ｶﾞ",
    "𠮷野家で𩸽を食べる",
    "👨‍👩‍👧 と 🇯🇵",
    "か\u3099は合成しない",
    "\u2028行\u2029段落\x85\x0b\x0c",
    "\ufeffBOM",
    "\x00ヌル",
    "a  b   c",
    "def f(x):\n    return x + 1\n",
    "<0x0A> は改行ではない",
    "<MASK> も <CLS> もただの文字",
]
"""Texts that are easily tokenized wrongly, without special tokens and ▁."""

BEGINNING_WITH_THE_SPACE_PIECE = ["▁こんにちは", "▁▁a", " ▁", "▁"]


def texts_of(file: Path, count: int) -> list[str]:
    """The first texts of a gzipped JSON-lines file."""
    texts = []
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            texts.append(json.loads(line)["text"])
            if len(texts) == count:
                break
    return texts


def train_sentencepiece(prefix: Path, **options: object) -> None:
    """Trains a SentencePiece model with the options and special pieces of llm-jp; `options` override them."""
    settings: dict[str, object] = {
        "model_type": "unigram",
        "vocab_size": 700,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "control_symbols": ["<MASK>", "<PAD>", "<CLS>", "<SEP>", "<EOD>"],
        "required_chars": "<>x0123456789ABCDEF",
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(prefix), **{**settings, **options}
    )
