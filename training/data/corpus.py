"""Tokenized documents as one flat array."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TokenizedCorpus:
    """Token ids of documents, without special tokens.

    Attributes:
        ids: `(tokens,)` int32, the documents one after another.
        offsets: `(documents + 1,)` int64; document i is `ids[offsets[i]:offsets[i + 1]]`.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def document(self, index: int) -> npt.NDArray[np.int32]:
        """Returns the `(tokens,)` int32 ids of a document."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


def from_documents(documents: Iterable[npt.ArrayLike]) -> TokenizedCorpus:
    """Makes a corpus of `(tokens,)` arrays or lists of ids; empty documents are skipped."""
    arrays = [array for document in documents if len(array := np.asarray(document, dtype=np.int32))]
    offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    ids = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)
    return TokenizedCorpus(ids, offsets)
