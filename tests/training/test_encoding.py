"""The ids of `Encoder` are those of SentencePiece and of the fast tokenizer."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
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
    """Texts that repeat a few units, which have many splits of equal score."""
    drawn = random.Random(seed)

    def text() -> str:
        units = drawn.sample(UNITS, drawn.randint(1, 4))
        longest = drawn.choice(most)
        return "".join(drawn.choice(units) * drawn.randint(1, longest) for _ in range(drawn.randint(1, 20)))

    return [text() for _ in range(count)]


def fast_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def encoded(tokenizer: PreTrainedTokenizerBase, texts: list[str], backend: str = "sentencepiece") -> list[list[int]]:
    encoder = Encoder(tokenizer)
    assert encoder.backend == backend
    ids = encoder.encode(texts)
    assert all(document.dtype == np.int32 for document in ids)
    return [document.tolist() for document in ids]


def score(vocabulary: list[tuple[str, float]], ids: list[int]) -> float:
    return sum(vocabulary[token][1] for token in ids)


@pytest.mark.parametrize("name", ["3.0b1", "3.1"])
def test_ids_equal_sentencepiece_and_the_fast_tokenizer_up_to_ties(data_dir: Path, name: str) -> None:
    path = data_dir / "tokenizer" / f"llm-jp-tokenizer-100k.ver{name}.model"
    tokenizer = build_tokenizer(str(path))
    files = find_files([str(data_dir / "corpus" / "manuals")])[:8]
    texts = [document.text for file in files for document in read_documents(file)][:250]
    works = read_documents(str(data_dir / "corpus" / "aozora" / "validation.jsonl.gz"))
    texts += [document.text for document, _ in zip(works, range(20), strict=False)]
    ids, fast = encoded(tokenizer, texts), fast_ids(tokenizer, texts)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    alone = processor.encode(texts)
    differing = [index for index in range(len(texts)) if not ids[index] == fast[index] == alone[index]]
    assert len(differing) <= 3
    pieces = [(processor.id_to_piece(token), processor.get_score(token)) for token in range(len(processor))]
    for index in differing:
        for other in (fast[index], alone[index]):
            assert tokenizer.decode(ids[index]) == tokenizer.decode(other)
            # Ties, up to the rounding of single precision.
            assert score(pieces, ids[index]) == pytest.approx(score(pieces, other), rel=1e-6)


@pytest.mark.parametrize("name", ["3.0b1", "3.1"])
def test_odd_texts_have_the_ids_of_the_fast_tokenizer(data_dir: Path, name: str) -> None:
    tokenizer = build_tokenizer(str(data_dir / "tokenizer" / f"llm-jp-tokenizer-100k.ver{name}.model"))
    assert encoded(tokenizer, HARD) == fast_ids(tokenizer, HARD)


def test_ties_have_the_same_text_and_score() -> None:
    texts = ["今日は良い天気です。ころころ転がる。XXXとX。"] * 9
    tokenizer = train_stand_in(texts + repetitions(60, seed=99, most=(3, 12)), 420)
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
    texts = [*repetitions(120, seed=2), "一" * 500 + "\n" + "二三" * 300]
    for text, ids, fast in zip(texts, encoded(tokenizer, texts), fast_ids(tokenizer, texts), strict=True):
        assert tokenizer.decode(ids) == tokenizer.decode(fast) == text.replace("▁", " ")
        # Bytes have no score of their own in either library.
        known, known_fast = ([token for token in one if token >= 264] for one in (ids, fast))
        assert score(vocabulary, known) == pytest.approx(score(vocabulary, known_fast), abs=0.01)


def test_long_documents_are_split_as_a_whole(data_dir: Path) -> None:
    """A document is passed to SentencePiece in parts, and the cuts do not show in its ids."""
    tokenizer = build_tokenizer(str(data_dir / "tokenizer" / "llm-jp-tokenizer-100k.ver3.0b1.model"))
    works = read_documents(str(data_dir / "corpus" / "aozora" / "validation.jsonl.gz"))
    longest = max((document.text for document, _ in zip(works, range(40), strict=False)), key=len)
    assert len(longest) > 50_000
    [ids] = encoded(tokenizer, [longest])
    assert ids == fast_ids(tokenizer, [longest])[0]


def test_tokenizer_with_added_tokens_is_used_directly() -> None:
    tokenizer = train_stand_in([*HARD, *"今日は良い天気です。明日も晴れるでしょう。"] * 9, 360)
    texts = [*HARD, "今日は良い天気です。"]
    assert Encoder(tokenizer).backend == "sentencepiece"
    # SentencePiece does not know added tokens.
    tokenizer.add_tokens(["良い天気"])
    assert encoded(tokenizer, texts, "tokenizers") == fast_ids(tokenizer, texts)


def test_vocabulary_hash_identifies_vocabularies() -> None:
    texts = ["今日は良い天気です。明日も晴れるでしょう。雨かもしれません。"] * 9
    first, equal = train_stand_in(texts, 340), train_stand_in(texts, 340)
    different = train_stand_in(["雪が降る。"] * 9, 340)
    assert vocabulary_hash(first) == vocabulary_hash(equal) != vocabulary_hash(different)
