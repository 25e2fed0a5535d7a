"""Documents as one flat array of token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts that are handed to the tokenizer at once: enough to keep its threads busy.
_BATCH = 64


@dataclass(frozen=True)
class TokenizedCorpus:
    """Token ids of documents, without special tokens.

    Attributes:
        ids: `(tokens,)` int32, document after document.
        offsets: `(documents + 1,)` int64; document i is `ids[offsets[i]:offsets[i + 1]]`.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def document(self, index: int) -> npt.NDArray[np.int32]:
        """`(tokens of the document,)` int32."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


def from_documents(documents: Iterable[npt.ArrayLike]) -> TokenizedCorpus:
    """A corpus of documents given as `(tokens,)` arrays or lists of ids; those without a token are left out."""
    arrays = [array for document in documents if len(array := np.asarray(document, dtype=np.int32))]
    offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    ids = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)
    return TokenizedCorpus(ids, offsets)


def tokenize(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    progress: Callable[[int], Any] | None = None,
) -> TokenizedCorpus:
    """Tokenises documents.

    Args:
        texts: the documents. A special token's name in them is text like any other: no document can hold a mask.
        tokenizer: a fast tokenizer.
        progress: called after every batch with the number of characters in it.
    """
    return from_documents(_encoded(iter(texts), tokenizer, progress))


def _encoded(
    texts: Iterator[str], tokenizer: PreTrainedTokenizerBase, progress: Callable[[int], Any] | None
) -> Iterator[list[int]]:
    while batch := list(islice(texts, _BATCH)):
        # Lengths are cut later, so the warning about long documents would be wrong.
        encoded = tokenizer(batch, add_special_tokens=False, split_special_tokens=True, verbose=False)
        yield from encoded["input_ids"]
        if progress is not None:
            progress(sum(map(len, batch)))
