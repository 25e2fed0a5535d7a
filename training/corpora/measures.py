"""Properties of Japanese texts that filters compare with thresholds, and character n-grams."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

REPEATED_CHARACTERS = 10
"""Length in characters of the n-grams that `repeated_ngrams` counts."""

BOILERPLATE = (
    *("プライバシーポリシー", "個人情報保護方針", "利用規約", "特定商取引法", "サイトマップ", "お問い合わせはこちら"),
    # Not ログイン, which is also frequent in technical documentation.
    *("会員登録", "新規登録", "パスワードを忘れ", "メルマガ", "ページトップへ", "トップへ戻る"),
    *(
        "カートに入れる",
        "お気に入りに追加",
        "在庫切れ",
        "送料無料",
        "続きを読む",
        "もっと見る",
        "前の記事",
        "次の記事",
    ),
    *("関連記事", "人気記事", "おすすめ記事", "シェアする", "ツイートする", "コメントを書く", "トラックバック"),
    *(
        "クッキーを使用",
        "Cookie を使用",
        "Cookieを使用",
        "JavaScriptを有効",
        "無断転載",
        "All Rights Reserved",
        "Copyright",
    ),
)
"""Phrases of menus, footers and buttons of Japanese web pages."""

_MAX_BOILERPLATE_LINE = 80
_BOILERPLATE = re.compile("|".join(map(re.escape, BOILERPLATE)), re.IGNORECASE)
_NOT_LETTERS = re.compile(r"[\W_]+")
_SPACE, _KANA, _KANJI, _LATIN, _OTHER_LETTER, _SYMBOL = range(6)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def skeleton(text: str) -> str:
    """The letters and digits of a text in compatibility form and lower case, for comparing texts."""
    return _NOT_LETTERS.sub("", unicodedata.normalize("NFKC", text).lower())


def hash64(text: str) -> int:
    """A uniform 64-bit hash of a text."""
    return int.from_bytes(hashlib.sha1(text.encode()).digest()[:8], "big")


def ngram_hashes(text: str, length: int) -> Hashes:
    """64-bit hashes of the character n-grams of a text, in their order; empty if the text is shorter than one.

    Each hash is a polynomial in the code points, mixed as in splitmix64 (Steele et al., 2014).
    """
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    count = max(0, len(points) - length + 1)
    hashes = np.zeros(count, np.uint64)
    for offset in range(length if count else 0):
        hashes = hashes * _MULTIPLIER + points[offset : offset + count]
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


@cache
def _classes() -> npt.NDArray[np.uint8]:
    """The class of each code point of the basic multilingual plane."""
    table = np.full(0x10000, _SYMBOL, np.uint8)
    for point in range(0x10000):
        character = chr(point)
        if character.isspace():
            table[point] = _SPACE
        elif character.isalpha():
            name = unicodedata.name(character, "")
            is_kana = "HIRAGANA" in name or "KATAKANA" in name
            is_kanji = name.startswith("CJK") or character in "々〇"
            is_latin = "LATIN" in name
            table[point] = _KANA if is_kana else _KANJI if is_kanji else _LATIN if is_latin else _OTHER_LETTER
        elif character.isnumeric():
            table[point] = _KANJI if character == "〇" else _OTHER_LETTER
    return table


@lru_cache(maxsize=1)
def _counts(text: str) -> npt.NDArray[np.int64]:
    """Number of characters of each class; ideographs beyond the basic plane are kanji."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    is_beyond = points > 0xFFFF
    counts = np.bincount(_classes()[points[~is_beyond]], minlength=6)
    beyond = points[is_beyond]
    kanji = int(np.count_nonzero((beyond >= 0x20000) & (beyond < 0x40000)))
    counts[_KANJI] += kanji
    counts[_SYMBOL] += len(beyond) - kanji
    return counts


def _share(*classes: int) -> Callable[[str], float]:
    def measure(text: str) -> float:
        counts = _counts(text)
        return float(counts[list(classes)].sum() / max(1, counts[_KANA:].sum()))

    return measure


def repeated_lines(text: str) -> float:
    """Share of the characters that are in lines equal to an earlier line, spaces around lines not counted."""
    lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
    characters = sum(map(len, lines))
    return (characters - sum(map(len, dict.fromkeys(lines)))) / max(1, characters)


def repeated_ngrams(text: str) -> float:
    """Share of the character n-grams that occurred earlier in the text."""
    hashes = ngram_hashes(text, REPEATED_CHARACTERS)
    return (len(hashes) - len(np.unique(hashes))) / max(1, len(hashes))


def boilerplate(text: str) -> float:
    """Share of the characters that are in short lines with a phrase of `BOILERPLATE`."""
    lines = text.splitlines()
    found = (line for line in lines if len(line) <= _MAX_BOILERPLATE_LINE and _BOILERPLATE.search(line))
    return sum(map(len, found)) / max(1, sum(map(len, lines)))


MEASURES: dict[str, Callable[[str], float]] = {
    "characters": len,
    "japanese": _share(_KANA, _KANJI),
    "kana": _share(_KANA),
    "kanji": _share(_KANJI),
    "latin": _share(_LATIN),
    "symbols": _share(_SYMBOL),
    "repeated_lines": repeated_lines,
    "repeated_ngrams": repeated_ngrams,
    "boilerplate": boilerplate,
}
"""Filters of a recipe. `japanese` to `symbols` are shares of the characters that are not white space."""
