"""Tokens and the characters of the text that they cover, for any tokenizer."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

Span = tuple[int, int]
"""Start and end in a text, in characters."""


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer adds before and after a text."""
    plain: list[int] = tokenizer("一", add_special_tokens=False)["input_ids"]
    ids: list[int] = tokenizer("一")["input_ids"]
    begin = next(place for place in range(len(ids)) if ids[place : place + len(plain)] == plain)
    return ids[:begin], ids[begin + len(plain) :]


def with_spans(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[Span | None]]:
    """Ids of a text without special tokens, and the span of each without surrounding whitespace.

    Returns:
        Two lists of one length; None for a token that covers only whitespace or nothing.
    """
    ids, spans = _raw_spans(tokenizer, text)
    return ids, [None if span is None else strip(text, span) for span in spans]


def strip(text: str, span: Span) -> Span | None:
    """A span without surrounding whitespace; None if nothing remains."""
    piece = text[slice(*span)]
    begin = span[0] + len(piece) - len(piece.lstrip())
    return (begin, begin + len(piece.strip())) if piece.strip() else None


def with_characters(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[float]]:
    """Ids of a text without special tokens, and how many characters of the text each covers.

    Whitespace counts if a token covers it, and not if the tokenizer added or dropped it. Tokens that share a
    character, for example its bytes, get equal parts of it.

    Returns:
        Two lists of one length; 0 for a token that covers nothing.
    """
    ids, spans = _raw_spans(tokenizer, text)
    owners = Counter(place for span in spans if span is not None for place in range(*span))
    return ids, [0.0 if span is None else sum(1 / owners[place] for place in range(*span)) for span in spans]


def _raw_spans(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], Sequence[Span | None]]:
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = [(begin, end) for begin, end in encoded["offset_mapping"]]
        return encoded["input_ids"], _corrected(text, encoded.tokens(), spans)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = [
        "" if token == tokenizer.unk_token else token.removeprefix("##").replace("▁", "")
        for token in tokenizer.convert_ids_to_tokens(ids)
    ]
    return ids, find_pieces(text, pieces)


def _corrected(text: str, tokens: Sequence[str], spans: Sequence[Span]) -> list[Span | None]:
    """Corrects what the tokenizers library says of SentencePiece models.

    It gives the bytes of adjacent unknown characters one common span, and an inserted `▁` that of the next character.
    """
    corrected: list[Span | None] = []
    for span, group in groupby(zip(tokens, spans, strict=True), key=lambda pair: pair[1]):
        pieces = [token for token, _ in group]
        characters = [(place, place + 1) for place in range(*span) for _ in text[place].encode()]
        if len(pieces) == len(characters) and all(map(_BYTE.fullmatch, pieces)):
            corrected += characters
        else:
            corrected += [None if piece == "▁" and text[slice(*span)].strip() else span for piece in pieces]
    return corrected


def find_pieces(text: str, pieces: Sequence[str]) -> list[Span | None]:
    """Spans of the pieces of a text, for tokenizers without offsets.

    Pieces are searched for in order, NFKC-normalised and case-folded. Text between two matches belongs to the first
    unmatched piece between them, for example an unknown word.

    Args:
        text: any text.
        pieces: its tokens as text; empty for an unknown token.

    Returns:
        A span for each piece; None if no text remains for it.
    """
    folded, places = _fold(text)
    spans: list[Span | None] = []
    cursor = 0
    for piece in pieces:
        wanted, _ = _fold(piece)
        start = folded.find(wanted, cursor) if wanted else -1
        if start < 0:
            spans.append(None)
            continue
        cursor = start + len(wanted)
        spans.append((places[start], places[cursor - 1] + 1))
    filled = list(spans)
    for index, span in enumerate(spans):
        if span is None and (index == 0 or spans[index - 1] is not None):
            before = spans[index - 1] if index else None
            after = next((later for later in spans[index:] if later is not None), None)
            begin, end = before[1] if before else 0, after[0] if after else len(text)
            filled[index] = (begin, end) if begin < end else None
    return filled


def _fold(text: str) -> tuple[str, list[int]]:
    """Text in NFKC, case-folded and without whitespace, and the place of each of its characters in the original."""
    characters = [
        (folded, place)
        for place, character in enumerate(text)
        for folded in unicodedata.normalize("NFKC", character).casefold()
        if not folded.isspace()
    ]
    return "".join(folded for folded, _ in characters), [place for _, place in characters]
