"""The fast way gives the fast tokenizer's ids."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from llm_jp_modernbert.tokenization import build_tokenizer, train_stand_in
from llm_jp_modernbert.training.data.encoding import Encoder, vocabulary_hash
from llm_jp_modernbert.training.data.readers import find_files, read_documents

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
    "🙂" * 700,
    " " * 700,
]
# The last ones are in no vocabulary, or only inside a piece.
UNITS = [
    "X",
    "ー",
    "-",
    "…",
    " ",
    "　",
    "\n",
    "\r\n",
    "\t",
    "0",
    "▁",
    "ab",
    "ころ",
    "ワン",
    "abc",
    "今日は",
    "a b",
    "--*",
]
UNITS += ["The ", "、", "<0", "𩸽", "🙂", "👨‍👩‍👧", "샌", "밖"]


def repetitions(count: int, seed: int, most: tuple[int, ...] = (3, 40, 400)) -> list[str]:
    """Texts in which a few units are repeated, each a random number of times."""
    drawn = random.Random(seed)

    def text() -> str:
        units = drawn.sample(UNITS, drawn.randint(1, 4))
        longest = drawn.choice(most)
        return "".join(drawn.choice(units) * drawn.randint(1, longest) for _ in range(drawn.randint(1, 20)))

    return [text() for _ in range(count)]


@pytest.fixture(scope="module")
def repetitive() -> PreTrainedTokenizerBase:
    """A small vocabulary with many pieces that repeat a unit."""
    texts = ["今日は良い天気です。ころころ転がる。XXXとX。"] * 9
    return train_stand_in(texts + repetitions(60, seed=99, most=(3, 12)), 420)


def fast_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def assert_same(tokenizer: PreTrainedTokenizerBase, texts: list[str], backend: str) -> None:
    encoder = Encoder(tokenizer)
    assert encoder.backend == backend
    found = encoder.encode(texts)
    assert all(ids.dtype == np.int32 for ids in found)
    pairs = zip(texts, found, fast_ids(tokenizer, texts), strict=True)
    assert [text for text, ids, true in pairs if ids.tolist() != true] == []


@pytest.mark.parametrize("name", ["3.0b1", "3.1"])
def test_real_vocabularies(data_dir: Path, name: str) -> None:
    tokenizer = build_tokenizer(str(data_dir / "tokenizer" / f"llm-jp-tokenizer-100k.ver{name}.model"))
    manuals = find_files([str(data_dir / "corpus" / "manuals")])[:8]
    texts = [document.text for path in manuals for document in read_documents(path)][:250]
    works = read_documents(str(data_dir / "corpus" / "aozora" / "validation.jsonl.gz"))
    texts += [document.text for document, _ in zip(works, range(20), strict=False)]
    assert_same(tokenizer, [*HARD, *texts, *repetitions(100, seed=1)], "sentencepiece")


def test_a_stand_in() -> None:
    tokenizer = train_stand_in([*HARD, *"今日は良い天気です。明日も晴れるでしょう。"] * 9, 360)
    assert_same(tokenizer, HARD, "sentencepiece")
    # A token of the user's own is one that SentencePiece does not know.
    tokenizer.add_tokens(["良い天気"])
    assert_same(tokenizer, [*HARD, "今日は良い天気です。"], "tokenizers")


def test_repetitions_are_split_alike(repetitive: PreTrainedTokenizerBase) -> None:
    texts = repetitions(120, seed=2)
    assert_same(repetitive, texts, "sentencepiece")
    # SentencePiece alone does not: there are ties here to be decided.
    encoder = Encoder(repetitive)
    parts = [encoder._parts(text) for text in texts]
    undecided = [[int(i) for ids in encoder._processor.encode(part) for i in ids] for part in parts]
    assert undecided != fast_ids(repetitive, texts)


def test_the_search_is_the_tokenizers_librarys(repetitive: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(repetitive)
    search = encoder._viterbi
    texts = [text for text in repetitions(20, seed=3) if text]
    whole = [search.split("▁" + text.replace(" ", "▁"))[0] for text in texts]
    assert whole == fast_ids(repetitive, texts)
    # A text may be split part by part, with the sum that was reached.
    for text, ids in zip(texts, whole, strict=True):
        found, score = [], 0.0
        for part in encoder._parts(text):
            some, score = search.split(part, score)
            found += some
        assert found == ids


def test_the_hash_tells_vocabularies_apart() -> None:
    texts = ["今日は良い天気です。明日も晴れるでしょう。雨かもしれません。"] * 9
    one, same, other = train_stand_in(texts, 340), train_stand_in(texts, 340), train_stand_in(["雪が降る。"] * 9, 340)
    assert vocabulary_hash(one) == vocabulary_hash(same) != vocabulary_hash(other)
