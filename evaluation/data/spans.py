"""Tokens and the characters of the text that they stand for, for any tokenizer."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Where something begins and ends in a text, in characters."""


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and after a text."""
    some: list[int] = tokenizer("一", add_special_tokens=False)["input_ids"]
    ids: list[int] = tokenizer("一")["input_ids"]
    begin = next(place for place in range(len(ids)) if ids[place : place + len(some)] == some)
    return ids[:begin], ids[begin + len(some) :]


def with_spans(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[Span | None]]:
    """Ids of a text without special tokens, and the span of each; blanks at the ends of a span are left out of it.

    Returns:
        As many ids as spans; None for a token that stands for blanks alone or for nothing that was found.
    """
    ids, found = _with_raw_spans(tokenizer, text)
    return ids, [_stripped(text, span) for span in found]


def with_characters(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[float]]:
    """Ids of a text without special tokens, and how many characters of the text each stands for.

    Blanks count where a token stands for them, as `▁` in the midst of a text does, and not where the tokenizer added
    or dropped them. Tokens that share a character, such as its bytes, have equal parts of it.

    Returns:
        As many ids as numbers; 0 for a token that stands for nothing of the text.
    """
    ids, spans = _with_raw_spans(tokenizer, text)
    owners = Counter(place for span in spans if span is not None for place in range(*span))
    return ids, [0.0 if span is None else sum(1 / owners[place] for place in range(*span)) for span in spans]


def _with_raw_spans(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], Sequence[Span | None]]:
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["input_ids"], [tuple(span) for span in encoded["offset_mapping"]]
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = [
        "" if token == tokenizer.unk_token else token.removeprefix("##").replace("▁", "")
        for token in tokenizer.convert_ids_to_tokens(ids)
    ]
    return ids, find_pieces(text, pieces)


def find_pieces(text: str, pieces: Sequence[str]) -> list[Span | None]:
    """Where the pieces of a text stand in it, for tokenizers that do not tell.

    Pieces are looked for in their order, in NFKC and without case. What stands between two that are found belongs to
    the one piece between them that is not, such as an unknown word.

    Args:
        text: any.
        pieces: its parts as the tokenizer writes them; empty for an unknown one.

    Returns:
        A span for each piece; None where nothing is left for it.
    """
    folded, places = _folded(text)
    found: list[Span | None] = []
    cursor = 0
    for piece in pieces:
        wanted, _ = _folded(piece)
        at = folded.find(wanted, cursor) if wanted else -1
        if at < 0:
            found.append(None)
            continue
        cursor = at + len(wanted)
        found.append((places[at], places[cursor - 1] + 1))
    return [
        _between(found, index, len(text)) if span is None and not _joined(found, index) else span
        for index, span in enumerate(found)
    ]


def _folded(text: str) -> tuple[str, list[int]]:
    """Text in NFKC, without case and blanks, and for each of its characters the place in the text."""
    characters = [
        (folded, place)
        for place, character in enumerate(text)
        for folded in unicodedata.normalize("NFKC", character).casefold()
        if not folded.isspace()
    ]
    return "".join(folded for folded, _ in characters), [place for _, place in characters]


def _joined(found: Sequence[Span | None], index: int) -> bool:
    """Whether the piece before is unknown as well; the first of several takes what they all stand for."""
    return index > 0 and found[index - 1] is None


def _between(found: Sequence[Span | None], index: int, length: int) -> Span | None:
    before = found[index - 1] if index else None
    after = next((span for span in found[index:] if span is not None), None)
    begin, end = before[1] if before else 0, after[0] if after else length
    return (begin, end) if begin < end else None


def _stripped(text: str, span: Span | None) -> Span | None:
    if span is None:
        return None
    begin, end = span
    while begin < end and text[begin].isspace():
        begin += 1
    while begin < end and text[end - 1].isspace():
        end -= 1
    return (begin, end) if begin < end else None
