"""Texts to token ids as fast as the processor goes: by SentencePiece where it gives the fast tokenizer's ids.

Llm-jp's vocabulary has no pre-tokeniser: a whole document is one word, which the tokenizers library splits five times
slower than SentencePiece's own processor. Both look for the split of the highest score, and may differ in two ways:

* SentencePiece adds scores up in single precision, so that in a long document splits of nearly the same score become
  one. No piece crosses a newline, so a document is given to it in parts that end with one.
* Splits of exactly the same score are ties, which rounding decides. They are found where neighbouring tokens are
  repetitions of one unit, such as `XXX` and `X`, whose order makes no difference; such documents, about one in twenty,
  are left to the fast tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts that both have to split alike before the faster one is trusted.
_PROBES = (
    "今日のご飯はカレーである。\n\n  The quick brown fox\t42 times. ",
    "𠮷野家で𩸽を食べる👨‍👩‍👧 ＡＢＣ　ｱｲｳ①",
    "一行目\n二行目\r\n",
)
# A part of a document ends with the first newline after so many characters.
_PART = 200
# Llm-jp's first ids.
_SPECIAL_TOKENS = 8
# Types of pieces in SentencePiece's model file.
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


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
            # The first part of a text has a space before it, the others have not.
            self._first, self._other = _processor(model, 1), _processor(model, 0)
            units: dict[str, int] = {}
            self._units = np.array([units.setdefault(_unit(piece), len(units)) for piece, _ in model["vocab"]])
            # SentencePiece ends a text at NUL, and never finds the names of special tokens and bytes in a text, where
            # the tokenizers library does if all else is less likely.
            names = [piece for piece, _ in model["vocab"][:_SPECIAL_TOKENS]]
            self._special = re.compile("|".join(map(re.escape, ["\0", "<0x", *names])))
            if all(map(np.array_equal, self._fast(_PROBES), self._sentencepiece(_PROBES))):
                self.backend = "sentencepiece"

    def encode(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """`(tokens,)` int32 of each text: the ids that the fast tokenizer gives it."""
        if self.backend == "tokenizers":
            return self._fast(texts)
        plain = [index for index, text in enumerate(texts) if not self._special.search(text)]
        split = zip(plain, self._sentencepiece([texts[index] for index in plain]), strict=True)
        found = {index: ids for index, ids in split if not self._may_tie(ids)}
        others = [index for index in range(len(texts)) if index not in found]
        found.update(zip(others, self._fast([texts[index] for index in others]), strict=True))
        return [found[index] for index in range(len(texts))]

    def _sentencepiece(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        parts = [_parts(text) for text in texts]
        first = self._first.encode([part[0] for part in parts], num_threads=self.threads)
        others = iter(self._other.encode([text for part in parts for text in part[1:]], num_threads=self.threads))
        return [
            np.fromiter(chain(ids, *islice(others, len(part) - 1)), dtype=np.int32)
            for ids, part in zip(first, parts, strict=True)
        ]

    def _may_tie(self, ids: npt.NDArray[np.int32]) -> bool:
        """Whether two different neighbours repeat the same unit."""
        units = self._units[ids]
        return bool(((units[1:] == units[:-1]) & (ids[1:] != ids[:-1])).any())

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
    newlines = any("\n" in piece for piece, _ in model.get("vocab", ()))
    return model if alike and inside and not newlines else None


def _parts(text: str) -> list[str]:
    parts, begin = [], 0
    while 0 <= (end := text.find("\n", begin + _PART)) < len(text) - 1:
        parts.append(text[begin : end + 1])
        begin = end + 1
    return [*parts, text[begin:]]


def _unit(piece: str) -> str:
    """The shortest text that the piece repeats: itself, for most."""
    return piece[: (piece + piece).find(piece, 1)]


def _processor(model: dict[str, Any], space_before: int) -> Any:
    """A processor of the vocabulary that leaves the text as it is, and puts a space before it or does not."""
    import sentencepiece

    pieces = []
    for token_id, (piece, score) in enumerate(model["vocab"]):
        if token_id == 0:
            kind = _UNKNOWN
        elif token_id < _SPECIAL_TOKENS:
            kind = _CONTROL
        else:
            kind = _BYTE if re.fullmatch("<0x[0-9A-F]{2}>", piece) and token_id < 264 else _NORMAL
        encoded = _text(1, piece) + b"\x15" + struct.pack("<f", score) + _number(3, kind)
        pieces.append(_message(1, encoded))
    trainer = _number(3, 1) + _number(35, 1)  # a Unigram model, with bytes for unknown characters
    normalizer = _text(1, "identity") + _number(3, space_before) + _number(4, 0) + _number(5, 1)
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
