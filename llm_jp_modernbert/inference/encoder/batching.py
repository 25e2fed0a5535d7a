"""Batches of any number of texts: tokenised in the background, sorted by length, cut by a token budget."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.text_files import check_characters

from ..masked_logits import split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Text = str | tuple[str, str] | Sequence[int] | np.ndarray
"""A text, a pair of texts, or the token ids of a text with special tokens."""

# Texts that are tokenised and sorted together: batches of a small window are uneven, a large one takes memory.
_WINDOW_TEXTS = 4096
_WINDOW_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Batch:
    """A packed batch.

    Attributes:
        indices: int64 `(documents,)`, the places of its documents among all texts.
        input_ids: int64 `(total_tokens,)`.
        cu_seqlens: int64 `(documents + 1,)`, the document boundaries.
    """

    indices: np.ndarray
    input_ids: np.ndarray
    cu_seqlens: np.ndarray


def pack(rows: Sequence[Sequence[int] | np.ndarray], indices: Sequence[int]) -> Batch:
    """Packs the token ids of documents, one or more."""
    return Batch(
        np.asarray(indices, dtype=np.int64),
        np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]),
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
    )


def padding_cost(config: Any) -> float:
    """The cost of a score of global attention, in units of the linear layers' cost of a token.

    The graphs of the runtimes compute global attention on a grid `(documents, longest)` per batch. A token costs
    `8 · hidden² + 6 · hidden · intermediate` operations in the linear layers of every layer, a score `4 · hidden` in
    every global layer (products of queries and keys, and of weights and values).
    """
    hidden, types = config.hidden_size, config.layer_types[: config.num_hidden_layers]
    linear = len(types) * (8 * hidden + 6 * config.intermediate_size)
    return float(4 * types.count("full_attention") / linear)


class Batcher:
    """Tokenises texts in a background thread and yields packed batches; memory does not grow with their number.

    Args:
        tokenizer: the model's tokenizer.
        max_length: maximum number of tokens of a document, special tokens included.
        vocabulary: number of token ids of the model.
        padding: see `split`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, vocabulary: int, padding: float = 0.0
    ) -> None:
        # A copy: its settings must not change while the thread uses it.
        self._tokenizer = copy.deepcopy(tokenizer)
        self._backend = getattr(self._tokenizer, "backend_tokenizer", None)
        self._max_length, self._vocabulary = max_length, vocabulary
        # Its settings must not change either while another batch is read.
        self._lock = threading.Lock()
        self._padding = padding

    def batches(
        self, texts: Iterable[Text], tokens_per_batch: int, prompt: str = "", truncate: bool = True
    ) -> Iterator[Batch]:
        """Yields the batches of texts.

        Args:
            texts: the texts; read in the background, some thousands ahead.
            tokens_per_batch: maximum tokens of a batch; a longer document is a batch of its own.
            prompt: put before every text that is not given as token ids.
            truncate: whether texts above the maximum length are truncated, and counted in the log.

        Raises:
            UsageError: an element is not a text, has lone surrogates or, unless truncated, too many tokens.
        """
        if isinstance(texts, str):
            raise UsageError(f"texts is one string ({texts[:20]!r}…). Give a list of texts.")
        if tokens_per_batch < 1:
            raise UsageError(f"tokens_per_batch is {tokens_per_batch}; it must be at least 1.")
        remaining, too_long = iter(enumerate(texts)), 0

        def read() -> tuple[list[int], list[np.ndarray], int]:
            window = list(_window(remaining))
            with self._lock:
                rows, truncated = self._tokenize(window, prompt, truncate)
            return [index for index, _ in window], rows, truncated

        with ThreadPoolExecutor(1, "tokenizer") as executor:
            following = executor.submit(read)
            while (window := following.result())[0]:
                following = executor.submit(read)
                indices, rows, truncated = window
                too_long += truncated
                for places in split(list(map(len, rows)), tokens_per_batch, self._padding):
                    yield pack([rows[place] for place in places], [indices[place] for place in places])
        if too_long:
            logger.warning("%d texts are longer than %d tokens and were truncated.", too_long, self._max_length)

    def _tokenize(
        self, window: Sequence[tuple[int, Text]], prompt: str, truncate: bool
    ) -> tuple[list[np.ndarray], int]:
        """The token ids of texts, and the number of truncated texts."""
        inputs = {place: self._checked(index, text, prompt) for place, (index, text) in enumerate(window)}
        texts = {place: text for place, text in inputs.items() if isinstance(text, (str, tuple))}
        rows = {place: np.asarray(ids, dtype=np.int32) for place, ids in inputs.items() if place not in texts}
        rows |= zip(texts, self._ids(list(texts.values())), strict=True)
        too_long = [place for place, row in rows.items() if len(row) > self._max_length]
        for place in too_long:
            if not truncate or place not in texts:
                raise UsageError(
                    f"text {window[place][0] + 1} has {len(rows[place]):,} tokens, but the context length is "
                    f"{self._max_length:,}. Shorten it{'' if place not in texts else ', or allow truncation'}."
                )
            pair = texts[place] if isinstance(texts[place], tuple) else (texts[place],)
            encoded = self._tokenizer(*pair, truncation=True, max_length=self._max_length, verbose=False)
            rows[place] = np.asarray(encoded["input_ids"], dtype=np.int32)
        for place, row in rows.items():
            if not len(row):
                raise UsageError(f"text {window[place][0] + 1} has no tokens. Leave it out.")
        return [rows[place] for place in range(len(window))], len(too_long)

    def _checked(self, index: int, text: Any, prompt: str) -> Text:
        """The text after the prompt; raises `UsageError` if it is none."""
        if isinstance(text, str) or is_pair(text):
            text = prompt + text if isinstance(text, str) else text
            try:
                for part in (text,) if isinstance(text, str) else text:
                    check_characters(part)
            except UsageError as error:
                raise UsageError(f"text {index + 1} has {error}") from None
            return text
        if isinstance(text, (list, tuple, np.ndarray)) and len(text):
            ids = np.asarray(text)
            if ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer):
                # Runtimes may read any row of memory for other ids.
                if ids.min() < 0 or ids.max() >= self._vocabulary:
                    raise UsageError(f"text {index + 1} has token ids outside of 0 to {self._vocabulary - 1}.")
                return ids
        raise UsageError(f"text {index + 1} is {str(text)[:30]!r}; it must be a string or a list of token ids.")

    def _ids(self, texts: Sequence[str | tuple[str, str]]) -> Iterator[np.ndarray]:
        if self._backend is None:
            encoded: Any = (
                self._tokenizer(*((text,) if isinstance(text, str) else text), verbose=False)["input_ids"]
                for text in texts
            )
        else:
            # Half the time of a call of the tokenizer, which also returns masks and corrects offsets.
            self._backend.no_truncation()
            self._backend.no_padding()
            encoded = (encoding.ids for encoding in self._backend.encode_batch_fast(texts))
        return (np.asarray(ids, dtype=np.int32) for ids in encoded)


def _window(texts: Iterator[tuple[int, Text]]) -> Iterator[tuple[int, Text]]:
    characters = 0
    for count, (index, text) in enumerate(texts, start=1):
        yield index, text
        if isinstance(text, (str, list, tuple)):
            characters += len(text) if isinstance(text, str) else sum(map(len, text)) if is_pair(text) else len(text)
        if count == _WINDOW_TEXTS or characters >= _WINDOW_CHARACTERS:
            return


def is_pair(text: Any) -> bool:
    """Whether an element is a pair of texts; other tuples are token ids."""
    return isinstance(text, tuple) and len(text) == 2 and all(isinstance(part, str) for part in text)
