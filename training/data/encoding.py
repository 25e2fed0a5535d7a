"""Convert texts to token ids with SentencePiece, several times faster than the tokenizers library.

The vocabulary of llm-jp has no pre-tokenizer: a whole document is one word, in which both libraries search for the
split with the highest sum of scores. A document is passed to SentencePiece in parts. It is cut only between characters
that are not adjacent in any piece, so no piece crosses a cut, and the best splits of the parts make up the best split
of the document. Short parts also run in parallel and keep SentencePiece's single-precision sums accurate.

Splits with equal scores are ties, which the two libraries may resolve differently. In 7,720 documents with 23 million
tokens, 15 documents differ from the fast tokenizer, each in one place. Texts that contain the name of a special token
or a byte piece, or NUL, are encoded by the fast tokenizer, because SentencePiece treats them differently.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from itertools import compress, pairwise
from operator import not_
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .readers import SourceError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts that both libraries must split alike before SentencePiece is used.
_PROBES = (
    "今日のご飯はカレーである。\n\n  The quick brown fox\t42 times. ",
    "𠮷野家で𩸽を食べる👨‍👩‍👧 ＡＢＣ　ｱｲｳ①",
    "一行目\n二行目\r\n",
)
# Characters of a part before the next possible cut. Longer parts have less overhead, shorter ones less rounding.
_PART = 1000
# The first ids of llm-jp are special tokens, followed by the 256 bytes.
_SPECIAL_TOKENS, _BYTES = 8, 264

Ids = npt.NDArray[np.int32]


class Encoder:
    """Encodes texts without special tokens; names of special tokens in a text are ordinary text.

    Args:
        tokenizer: a fast tokenizer.
        threads: threads of SentencePiece.

    Attributes:
        backend: `"sentencepiece"`, or `"tokenizers"` if the tokenizer is not an llm-jp Unigram vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, threads: int = 1) -> None:
        self.threads = threads
        self._tokenizer = tokenizer
        self.backend = "tokenizers"
        vocabulary = _unigram_vocabulary(tokenizer)
        if vocabulary is None:
            return
        self._processor = _processor(vocabulary)
        self._adjacent = {piece[at : at + 2] for piece, _ in vocabulary[_BYTES:] for at in range(len(piece) - 1)}
        # SentencePiece ends a text at NUL and never matches these names; the tokenizers library may.
        names = [piece for piece, _ in vocabulary[:_SPECIAL_TOKENS]]
        self._special = re.compile("|".join(map(re.escape, ["\0", "<0x", *names])))
        if all(map(np.array_equal, self._fast(_PROBES), self._sentencepiece(_PROBES))):
            self.backend = "sentencepiece"

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Returns the ids of each text, `(tokens,)` int32."""
        if self.backend == "tokenizers":
            return self._fast(texts)
        special = [("<" in text or "\0" in text) and self._special.search(text) is not None for text in texts]
        fast = iter(self._fast(list(compress(texts, special))))
        split = iter(self._sentencepiece(list(compress(texts, map(not_, special)))))
        return [next(fast if is_special else split) for is_special in special]

    def _sentencepiece(self, texts: Sequence[str]) -> list[Ids]:
        parts: list[str] = []
        starts = [0]
        for text in texts:
            parts += self._parts(text)
            starts.append(len(parts))
        if not parts:
            return [np.zeros(0, dtype=np.int32) for _ in texts]
        ids = self._processor.encode(parts, num_threads=self.threads, return_type="numpy")
        return [np.concatenate(ids[begin:end] or [np.zeros(0, np.int32)]) for begin, end in pairwise(starts)]

    def _parts(self, text: str) -> list[str]:
        """Normalizes a text and cuts it between characters that are not adjacent in any piece."""
        text = "▁" + text.replace(" ", "▁") if text else ""
        parts, begin = [], 0
        while begin < len(text):
            end = begin + _PART
            while end < len(text) and text[end - 1 : end + 1] in self._adjacent:
                end += 1
            parts.append(text[begin:end])
            begin = end
        return parts

    def _fast(self, texts: Sequence[str]) -> list[Ids]:
        if not texts:
            return []
        encoded = _tokenized(self._tokenizer, texts)
        return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]


class WordEncoder:
    """Encodes texts and numbers their words, as MeCab segments them, for whole-word masking.

    Args:
        tokenizer: a fast tokenizer.

    Raises:
        SourceError: fugashi or a dictionary for it is not installed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        try:
            import fugashi

            self._tagger: Any = fugashi.Tagger()
        except (ImportError, RuntimeError) as error:
            raise SourceError("whole_word: needs a segmenter: pip install fugashi unidic-lite.") from error

    def encode(self, texts: Sequence[str]) -> list[tuple[Ids, Ids]]:
        """Returns `(tokens,)` int32 ids of each text, and the `(tokens,)` int32 number of the word of each token."""
        if not texts:
            return []
        encoded = _tokenized(self._tokenizer, texts, return_offsets_mapping=True)
        return [
            (np.asarray(ids, dtype=np.int32), self._words(text, np.asarray(offsets).reshape(-1, 2)))
            for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def _words(self, text: str, offsets: npt.NDArray[np.int64]) -> Ids:
        starts, line_start = [], 0
        for line in text.splitlines(keepends=True):
            position = line_start
            # MeCab drops white space, so each word is searched for after the previous one.
            for word in self._tagger(line):
                position = text.index(word.surface, position)
                starts.append(position)
                position += len(word.surface)
            line_start += len(line)
        # A token belongs to the word of its first character that is not a space.
        spaces = np.array([character.isspace() for character in text] + [False])
        firsts = offsets[:, 0] + (spaces[offsets[:, 0]] & (offsets[:, 1] - offsets[:, 0] > 1))
        return np.searchsorted(np.asarray(starts, dtype=np.int64), firsts, side="right").astype(np.int32)


def _tokenized(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: bool) -> Any:
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
        **options,
    )


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a fast tokenizer's tokens in the order of their ids, in hexadecimal."""
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    return hashlib.sha256("\n".join(tokens).encode("utf-8", "surrogatepass")).hexdigest()


def _unigram_vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, float]] | None:
    """The pieces and scores of a tokenizer that SentencePiece can reproduce, or None."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    content = json.loads(backend.to_str())
    model: dict[str, Any] = content["model"]
    supported = model.get("type") == "Unigram" and model.get("byte_fallback") and model.get("unk_id") == 0
    # Only the tokenizers library finds tokens that were added to the vocabulary.
    added = any(token["id"] >= len(model.get("vocab", ())) for token in content["added_tokens"])
    return model["vocab"] if supported and not added else None


def _processor(vocabulary: Sequence[tuple[str, float]]) -> Any:
    """A SentencePiece processor of the vocabulary that does not normalize its input."""
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto()
    kinds = ModelProto.SentencePiece
    for token_id, (piece, score) in enumerate(vocabulary):
        # Special tokens are normal pieces: the score of an unknown character depends on the lowest score of those.
        kind = kinds.UNKNOWN if token_id == 0 else kinds.BYTE if _SPECIAL_TOKENS <= token_id < _BYTES else kinds.NORMAL
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.byte_fallback = True
    normalizer = model.normalizer_spec
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = False
    return SentencePieceProcessor(model_proto=model)
