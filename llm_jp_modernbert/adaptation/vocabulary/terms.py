"""Terms of a domain: frequent words of its texts that the vocabulary lacks, or those of a list."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from unicodedata import category

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.text_files import read_lines
from llm_jp_modernbert.tokenization.layout import SPACE
from llm_jp_modernbert.tokenization.vocabulary import Vocabulary

# A word of Latin letters with digits and hyphens inside, or of kanji and katakana. Words of other scripts, above all
# hiragana, are rarely terms. A word ends where its script ends.
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[_-][A-Za-z][A-Za-z0-9]*)*|[ァ-ヺ一-鿿㐀-䶿][ァ-ヺー一-鿿㐀-䶿々〆]+")
_LONGEST = 24
# Scores of longer splits add up to sums whose rounding errors come near the margin of new pieces.
_LONGEST_NAMED = 256
_LEAST_LATIN = 3
MIN_COUNT = 5
"""Rarer words are not added: their embedding would hardly be trained."""

# Distinct words that are held in memory before the rarest are dropped.
_MOST_WORDS = 5_000_000
# Candidates per term wanted.
_CANDIDATES = 10


def find_words(batches: Iterable[list[str]], vocabulary: Vocabulary, number: int) -> dict[str, int]:
    """The pieces that may save the most tokens, and their counts in the texts.

    Args:
        batches: documents.
        vocabulary: the present vocabulary.
        number: number of terms wanted.

    Raises:
        UsageError: no word is frequent enough and more than one token.
    """
    words: Counter[str] = Counter()
    for batch in batches:
        for text in batch:
            words.update(_WORD.findall(text))
        if len(words) > _MOST_WORDS:
            words = Counter({word: count for word, count in words.items() if count > 1})
    pieces = {
        piece: count
        for word, count in words.items()
        if count >= MIN_COUNT and len(word) <= _LONGEST and (not word.isascii() or len(word) >= _LEAST_LATIN)
        for piece in _with_space(word)
        if piece not in vocabulary.ids
    }
    gains = {piece: pieces[piece] * (length - 1) for piece, length in vocabulary.lengths(pieces).items()}
    best = sorted((piece for piece in gains if gains[piece]), key=lambda piece: (-gains[piece], piece))
    if not best:
        raise UsageError(
            f"--texts: no new terms found: every word that occurs {MIN_COUNT} times is a token. Add texts, or name "
            "terms with --terms."
        )
    return {piece: pieces[piece] for piece in best[: _CANDIDATES * number]}


def read_terms(path: Path, vocabulary: Vocabulary) -> tuple[list[str], list[str]]:
    """The terms of a file, one per line, as pieces.

    Args:
        path: a text file; blank lines are skipped.
        vocabulary: the present vocabulary.

    Returns:
        New pieces, and terms that are tokens already.

    Raises:
        UsageError: the file cannot be read or holds no new term, or a term is too long or has control characters.
    """
    terms: dict[str, None] = {}
    for row, line in read_lines(path):
        term = line.strip()
        if len(term) > _LONGEST_NAMED:
            raise UsageError(
                f"--terms {path}, row {row}: {len(term):,} characters; a term has at most {_LONGEST_NAMED}. Write one "
                "term per line."
            )
        control = next((character for character in term if category(character) == "Cc"), None)
        if control is not None:
            raise UsageError(f"--terms {path}, row {row}: holds the control character {control!r}. Remove it.")
        terms[term] = None
    pieces = dict.fromkeys(vocabulary.piece_of(term) for term in terms if term)
    new = [piece for piece in pieces if piece and piece not in vocabulary.ids]
    if not new:
        reason = "all of its terms are tokens already" if pieces else "holds no term"
        raise UsageError(f"--terms {path}: {reason}. Name a file with a new term per line.")
    return new, [piece for piece in pieces if piece in vocabulary.ids]


def with_spaces(pieces: Iterable[str], vocabulary: Vocabulary) -> list[str]:
    """The pieces, and those of Latin letters also with the space before them, which is part of most tokens."""
    return [variant for piece in pieces for variant in _with_space(piece) if variant not in vocabulary.ids]


def _with_space(word: str) -> tuple[str, ...]:
    return (word, SPACE + word) if word[0].isascii() and word[0].isalpha() else (word,)
