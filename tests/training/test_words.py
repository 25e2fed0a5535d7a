"""Whole-word masking uses the words of MeCab."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import runs

from llm_jp_modernbert.tokenization import build_tokenizer
from llm_jp_modernbert.training import assembly
from llm_jp_modernbert.training.data.encoding import WordEncoder

fugashi = pytest.importorskip("fugashi")

TEXT = "　吾輩は猫である。名前はまだ無い。\n\n どこで生れたか とんと見当がつかぬ。𠮷野家へ行った。\n"


def test_tokens_have_the_index_of_their_mecab_word(data_dir: Path) -> None:
    tokenizer = build_tokenizer(str(data_dir / "tokenizer" / "llm-jp-tokenizer-100k.ver3.0b1.model"))
    [(ids, words)] = WordEncoder(tokenizer).encode([TEXT])
    encoded = tokenizer(TEXT, add_special_tokens=False, return_offsets_mapping=True)
    assert ids.tolist() == encoded["input_ids"]
    expected: list[tuple[int, int]] = []
    place = 0
    for word in fugashi.Tagger()(TEXT.replace("\n", " ")):
        place = TEXT.index(word.surface, place)
        expected.append((place, place + len(word.surface)))
        place += len(word.surface)
    for number, (start, end) in zip(words, encoded["offset_mapping"], strict=True):
        if TEXT[start:end].strip():
            first = start + len(TEXT[start:end]) - len(TEXT[start:end].lstrip())
            begin, finish = expected[number - 1]
            assert begin <= first < finish


def test_words_are_masked_as_a_whole(data: tuple[Path, Path], tmp_path: Path) -> None:
    changes = {"whole_word": True, "mask_share": 1.0, "random_share": 0.0}
    arguments = runs.load(runs.recipe(*data, tmp_path / "run", **changes))
    stream = assembly.make_stream(arguments, assembly.make_tokenizer(arguments))
    maker = stream.maker
    block = next(maker.blocks())
    assert block.words is not None
    assert len(block.words) == len(block.rows.corpus.ids)
    checked = 0
    for row in range(len(block.rows)):
        ids, lengths = block.rows.row(row)
        words, _ = block.rows.gather(row, block.words, -1, -2)
        keys = np.arange(len(lengths), dtype=np.uint64) + np.uint64(row * 100)
        _, labels = stream.masking(ids, lengths, keys, words)
        piece = np.repeat(np.arange(len(lengths)), lengths)
        for of_piece in range(len(lengths)):
            for word in set(words[piece == of_piece]) - {-1, -2}:
                chosen = labels[(piece == of_piece) & (words == word)] != -100
                assert chosen.all() or not chosen.any()
                checked += len(chosen) > 1
    assert checked > 100
    batch = next(stream.batches())
    assert (batch["labels"] != -100).sum() == batch["info"].labels > 0
