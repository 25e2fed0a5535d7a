"""Which word each token belongs to, for masking words as a whole. The words are those of MeCab, by way of fugashi."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .readers import SourceError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class WordEncoder:
    """Encodes texts and numbers their words.

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

    def encode(self, texts: Sequence[str]) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]]:
        """`(tokens,)` int32 ids of each text, and `(tokens,)` int32 numbers of the word that each token begins in."""
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        return [
            (np.asarray(ids, dtype=np.int32), self._words(text, np.asarray(offsets).reshape(-1, 2)))
            for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]

    def _words(self, text: str, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        starts, place = [], 0
        for line in text.splitlines(keepends=True):
            inner = place
            # MeCab leaves white space out: each word is looked for behind the last.
            for word in self._tagger(line):
                inner = text.index(word.surface, inner)
                starts.append(inner)
                inner += len(word.surface)
            place += len(line)
        # A token counts where its first character that is no space does.
        spaces = np.array([character.isspace() for character in text] + [False])
        firsts = offsets[:, 0] + (spaces[offsets[:, 0]] & (offsets[:, 1] - offsets[:, 0] > 1))
        return np.searchsorted(np.asarray(starts, dtype=np.int64), firsts, side="right").astype(np.int32)
