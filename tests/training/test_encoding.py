"""The fast way gives the fast tokenizer's ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from llm_jp_modernbert.tokenization import build_tokenizer, train_stand_in
from llm_jp_modernbert.training.encoding import Encoder, vocabulary_hash
from llm_jp_modernbert.training.sources import find_files, read_documents

HARD = [
    "今日のご飯は<MASK|LLM-jp>である。",
    "<s>文頭と</s>文末",
    "\n改行で始まる\n\n空行",
    " 空白で始まる　全角　",
    "▁下線▁と▁空白",
    "零\0文字",
    "𠮷野家で𩸽を食べる👨‍👩‍👧",
    "ＡＢＣ①ｶﾞ<0x41>\t\r\n",
    "XXXXXXX ころころころころ ……………… 0000000",
    "",
    " ",
    "\n",
    "一" * 500 + "\n" + "二三" * 300,
]


def assert_same(tokenizer: PreTrainedTokenizerBase, texts: list[str], backend: str) -> None:
    encoder = Encoder(tokenizer)
    assert encoder.backend == backend
    expected = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    found = encoder.encode(texts)
    assert all(ids.dtype == np.int32 for ids in found)
    different = [text for text, ids, true in zip(texts, found, expected, strict=True) if ids.tolist() != true]
    assert different == []


@pytest.mark.parametrize("name", ["3.0b1", "3.1"])
def test_real_vocabularies(data_dir: Path, name: str) -> None:
    tokenizer = build_tokenizer(str(data_dir / "tokenizer" / f"llm-jp-tokenizer-100k.ver{name}.model"))
    manuals = find_files([str(data_dir / "corpus" / "manuals")])[:8]
    texts = [document.text for path in manuals for document in read_documents(path)][:250]
    works = read_documents(str(data_dir / "corpus" / "aozora" / "validation.jsonl.gz"))
    texts += [document.text for document, _ in zip(works, range(20), strict=False)]
    assert_same(tokenizer, [*HARD, *texts], "sentencepiece")


def test_a_stand_in() -> None:
    tokenizer = train_stand_in([*HARD, *"今日は良い天気です。明日も晴れるでしょう。"] * 9, 360)
    assert_same(tokenizer, HARD, "sentencepiece")
    # A token of the user's own is one that SentencePiece does not know.
    tokenizer.add_tokens(["良い天気"])
    assert_same(tokenizer, [*HARD, "今日は良い天気です。"], "tokenizers")


def test_the_hash_tells_vocabularies_apart() -> None:
    texts = ["今日は良い天気です。明日も晴れるでしょう。雨かもしれません。"] * 9
    one, same, other = train_stand_in(texts, 340), train_stand_in(texts, 340), train_stand_in(["雪が降る。"] * 9, 340)
    assert vocabulary_hash(one) == vocabulary_hash(same) != vocabulary_hash(other)
