"""Measures of texts agree with their definitions."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from llm_jp_modernbert.training.corpora.measures import MEASURES, ngram_hashes, skeleton


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("日本語 と\nABC、。", {"japanese": 4 / 9, "kana": 1 / 9, "kanji": 3 / 9, "latin": 3 / 9, "symbols": 2 / 9}),
        ("カタカナー", {"japanese": 1, "kana": 1, "kanji": 0, "symbols": 0}),
        ("𠮟る😀", {"japanese": 2 / 3, "kanji": 1 / 3, "symbols": 1 / 3}),
        ("人々は〇", {"kanji": 3 / 4, "kana": 1 / 4}),
        ("Ａｂ１２", {"latin": 1 / 2, "symbols": 0, "japanese": 0}),
        (" \n", {"japanese": 0, "symbols": 0}),
    ],
)
def test_shares_are_of_characters_that_are_not_white_space(text: str, shares: dict[str, float]) -> None:
    assert {name: MEASURES[name](text) for name in shares} == pytest.approx(shares)


def test_repeated_lines_count_characters_of_later_copies() -> None:
    assert MEASURES["repeated_lines"]("あいう\n\n えお \nあいう\nあいう\n") == pytest.approx(6 / 11)
    assert MEASURES["repeated_lines"]("") == 0


def test_repeated_ngrams_agree_with_a_direct_count() -> None:
    generator = random.Random(1)
    for length in (0, 9, 10, 11, 200):
        text = "".join(generator.choices("あい", k=length))
        counts = Counter(text[start : start + 10] for start in range(max(0, length - 9)))
        expected = 1 - len(counts) / counts.total() if counts else 0
        assert MEASURES["repeated_ngrams"](text) == pytest.approx(expected)


def test_boilerplate_is_the_share_of_short_lines_with_a_phrase() -> None:
    body = "今日は朝から雨が降っていたので、家で本を読んで過ごした。"
    assert MEASURES["boilerplate"](f"{body}\nログイン\n利用規約 | サイトマップ") == pytest.approx(
        13 / (17 + len(body))
    )
    assert MEASURES["boilerplate"](body + "利用規約という言葉が長い文の中に出てくる場合は数えない。" * 3) == 0


def test_hashes_of_ngrams_are_equal_exactly_if_the_ngrams_are() -> None:
    generator = random.Random(2)
    text = "".join(generator.choices("アイウエオ日本𠮟a", k=5000))
    for length in (1, 5, 13):
        ngrams = [text[start : start + length] for start in range(len(text) - length + 1)]
        hashes = ngram_hashes(text, length).tolist()
        assert len(hashes) == len(ngrams)
        assert len(set(zip(ngrams, hashes, strict=True))) == len(set(ngrams)) == len(set(hashes))
    assert len(ngram_hashes("短い", 13)) == 0


def test_skeleton_ignores_width_case_and_punctuation() -> None:
    assert skeleton("「Ｐｙｔｈｏｎ　３」は、楽しい！") == skeleton("python3は楽しい。") == "python3は楽しい"
