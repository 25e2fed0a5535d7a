"""Texts to token ids as fast as the processor goes: by SentencePiece where it gives the fast tokenizer's ids.

Llm-jp's vocabulary has no pre-tokeniser: a whole document is one word, which the tokenizers library splits six times
slower than SentencePiece's own processor. Both look for the split of the highest score, and may differ in two ways:

* SentencePiece adds scores up in single precision, so that in a long document splits of nearly the same score become
  one. A document is therefore given to it in parts, cut where no piece reaches from one to the next.
* Splits of nearly the same score are ties, which rounding decides. What stands around one, up to where no piece
  reaches over, is split again in double precision, from the sum that the document has reached before it.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Sequence, Sized
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .ties import Ties, find_repetitions
from .viterbi import Viterbi

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts that both have to split alike before the faster one is trusted.
_PROBES = (
    "今日のご飯はカレーである。\n\n  The quick brown fox\t42 times. ",
    "𠮷野家で𩸽を食べる👨‍👩‍👧 ＡＢＣ　ｱｲｳ①",
    "一行目\n二行目\r\n",
)
# A part of a document ends at the first possible cut after so many characters. Longer ones are faster, less precise.
_PART = 400
# Splits of two pieces each whose scores differ by less are not told apart for certain in single precision, if the sum
# up to them is above this: between -4,096 and -8,192, numbers are 0.0005 apart, and a sum of two is out by as much.
_TIE, _LOWEST_SUM = 0.001, -8192.0
# Llm-jp's ids begin with so many special tokens, and with the bytes after them.
_SPECIAL_TOKENS, _BYTES = 8, 264
# Types of pieces in SentencePiece's model file.
_NORMAL, _UNKNOWN, _BYTE = 1, 2, 6


class Encoder:
    """Encodes texts without special tokens; a special token's name in a text is text like any other.

    Args:
        tokenizer: a fast tokenizer.
        threads: that SentencePiece may use.

    Attributes:
        backend: `"sentencepiece"`, or `"tokenizers"` for a tokenizer that is no llm-jp Unigram vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, threads: int = 1) -> None:
        self.threads = threads
        self._tokenizer = tokenizer
        self.backend = "tokenizers"
        model = _unigram(tokenizer)
        if model is not None:
            vocabulary = model["vocab"]
            self._processor = _processor(vocabulary)
            self._viterbi = Viterbi(vocabulary)
            self._ties = Ties(vocabulary, _TIE)
            self._scores = np.array([score for _, score in vocabulary])
            self._lengths = np.array([len(piece) for piece, _ in vocabulary])
            # A character's first byte has the score and the length of an unknown character, the others none.
            first = np.array([not 0x80 <= byte < 0xC0 for byte in range(256)])
            self._scores[self._viterbi.bytes] = np.where(first, self._viterbi.unknown, 0.0)
            self._lengths[self._viterbi.bytes] = first
            self._joined = {piece[at : at + 2] for piece, _ in vocabulary[_BYTES:] for at in range(len(piece) - 1)}
            # SentencePiece ends a text at NUL, and never finds the names of special tokens and bytes in a text, where
            # the tokenizers library does if all else is less likely.
            names = [piece for piece, _ in vocabulary[:_SPECIAL_TOKENS]]
            self._special = re.compile("|".join(map(re.escape, ["\0", "<0x", *names])))
            if all(map(np.array_equal, self._fast(_PROBES), self._split(_PROBES))):
                self.backend = "sentencepiece"

    def encode(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """`(tokens,)` int32 of each text: the ids that the fast tokenizer gives it."""
        if self.backend == "tokenizers":
            return self._fast(texts)
        others = [index for index, text in enumerate(texts) if self._is_special(text)]
        if not others:
            return self._split(texts)
        found = dict(zip(others, self._fast([texts[index] for index in others]), strict=True))
        plain = [index for index in range(len(texts)) if index not in found]
        found.update(zip(plain, self._split([texts[index] for index in plain]), strict=True))
        return [found[index] for index in range(len(texts))]

    def _is_special(self, text: str) -> bool:
        return ("<" in text or "\0" in text) and self._special.search(text) is not None

    def _split(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        parts: list[str] = []
        numbers = [0]
        for text in texts:
            parts.extend(self._parts(text))
            numbers.append(len(parts))
        if not parts:
            return [np.zeros(0, dtype=np.int32) for _ in texts]
        split = self._processor.encode(parts, num_threads=self.threads, return_type="numpy")
        ids, ends = np.concatenate(split), _ends(split)
        borders = ends[numbers]
        found = [ids[begin:end].copy() for begin, end in pairwise(borders)]
        uncertain = self._uncertain(parts, ids, ends)
        by_text = groupby(uncertain, lambda span: np.searchsorted(borders, span[0], side="right").item())
        for behind, spans in by_text:
            found[behind - 1] = self._split_again(ids, borders[behind - 1], borders[behind], spans)
        return found

    def _parts(self, text: str) -> list[str]:
        """A text as the normaliser leaves it, cut where no piece has the characters on both sides."""
        text = "▁" + text.replace(" ", "▁") if text else ""
        parts, begin = [], 0
        while begin < len(text):
            end = begin + _PART
            while end < len(text) and text[end - 1 : end + 1] in self._joined:
                end += 1
            parts.append(text[begin:end])
            begin = end
        return parts

    def _uncertain(
        self, parts: Sequence[str], ids: npt.NDArray[np.int32], ends: npt.NDArray[np.intp]
    ) -> list[tuple[int, int, str]]:
        """What SentencePiece may have split otherwise: first token, the one behind the last, and their text; in order.

        Args:
            parts: of all texts.
            ids: `(tokens,)` of all parts.
            ends: `(parts + 1,)`, where the tokens of each begin, and the last ones end.
        """
        text, borders = "".join(parts), _ends(parts)
        reached = np.cumsum(self._lengths[ids])
        low = np.add.reduceat(self._scores[ids], ends[:-1]) < _LOWEST_SUM
        spans = set(zip(borders[:-1][low].tolist(), borders[1:][low].tolist(), strict=True))
        repetitions = np.array(find_repetitions(text, self._joined), dtype=np.intp)
        # Between two characters that may be of one piece.
        places = np.unique(np.concatenate([reached[self._ties.find(ids)], repetitions + 1]))
        numbers = np.searchsorted(borders, places, side="right") - 1
        inside = (borders[numbers] < places) & ~low[numbers]
        for place, number in zip(places[inside].tolist(), numbers[inside].tolist(), strict=True):
            spans.add(self._around(text, place, borders[number], borders[number + 1]))
        ordered = np.array(sorted(spans), dtype=np.intp).reshape(-1, 2)
        tokens = np.searchsorted(reached, ordered, side="right")
        spans_of_both = zip(tokens.tolist(), ordered.tolist(), strict=True)
        return [(first, behind, text[begin:end]) for (first, behind), (begin, end) in spans_of_both]

    def _around(self, text: str, place: int, begin: int, end: int) -> tuple[int, int]:
        """The characters around a place in a part of the text, up to where no piece has those on both sides."""
        first = last = place
        while first > begin and text[first - 1 : first + 1] in self._joined:
            first -= 1
        while last < end and text[last - 1 : last + 1] in self._joined:
            last += 1
        return first, last

    def _split_again(
        self, ids: npt.NDArray[np.int32], begin: int, end: int, uncertain: Iterable[tuple[int, int, str]]
    ) -> npt.NDArray[np.int32]:
        """The tokens of a text that has those from begin to end, with what is uncertain of them split in its turn."""
        found, score = [], 0.0
        for first, behind, text in uncertain:
            # One after the other, as the tokenizers library adds them; a sum in pairs is rounded otherwise.
            score = float(np.cumsum(np.append(score, self._scores[ids[begin:first]]))[-1])
            again, score = self._viterbi.split(text, score)
            found += [ids[begin:first], np.array(again, dtype=np.int32)]
            begin = behind
        return np.concatenate([*found, ids[begin:end]])

    def _fast(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            verbose=False,
            return_attention_mask=False,
        )
        return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a fast tokenizer's vocabulary: of its tokens in the order of their ids."""
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    return hashlib.sha256("\n".join(tokens).encode("utf-8", "surrogatepass")).hexdigest()


def _unigram(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """The model of a tokenizer.json, where SentencePiece could do the same."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    content = json.loads(backend.to_str())
    model: dict[str, Any] = content["model"]
    alike = model.get("type") == "Unigram" and model.get("byte_fallback") and model.get("unk_id") == 0
    # Tokens added to a vocabulary are found in the text by the tokenizers library alone.
    inside = all(token["id"] < len(model.get("vocab", ())) for token in content["added_tokens"])
    return model if alike and inside else None


def _ends(sequences: Sequence[Sized]) -> npt.NDArray[np.intp]:
    """Where each of the sequences begins, if one follows the other, and where the last one ends."""
    return np.cumsum([0, *map(len, sequences)])


def _processor(vocabulary: Sequence[tuple[str, float]]) -> Any:
    """A processor of the vocabulary that leaves the text as it is."""
    import sentencepiece

    pieces = []
    for token_id, (piece, score) in enumerate(vocabulary):
        # Special tokens are normal pieces too: the lowest score of those is what an unknown character's depends on.
        kind = _UNKNOWN if token_id == 0 else _BYTE if _SPECIAL_TOKENS <= token_id < _BYTES else _NORMAL
        encoded = _text(1, piece) + b"\x15" + struct.pack("<f", score) + _number(3, kind)
        pieces.append(_message(1, encoded))
    trainer = _number(3, 1) + _number(35, 1)  # a Unigram model, with bytes for unknown characters
    normalizer = _text(1, "identity") + _number(3, 0) + _number(4, 0) + _number(5, 1)
    serialized = b"".join(pieces) + _message(2, trainer) + _message(3, normalizer)
    return sentencepiece.SentencePieceProcessor(model_proto=serialized)


# SentencePiece's model file is a protocol buffer; these are the three kinds of fields that it needs.
def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode("utf-8"))
