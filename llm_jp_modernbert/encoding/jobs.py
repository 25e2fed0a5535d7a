"""The jobs of `encode`: each computes a vector, a score, candidates for masks, or a label for a text."""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.encoder.batching import pack
from llm_jp_modernbert.inference.fill_mask import MASK_ALIASES, with_mask_token
from llm_jp_modernbert.inference.heads import MASKED_LM, SEQUENCE_CLASSIFICATION, Head
from llm_jp_modernbert.inference.masked_logits import split

from .inputs import Document
from .options import EncodeOptions
from .quantization import quantize

if TYPE_CHECKING:
    import pyarrow

    from llm_jp_modernbert.inference.encoder.encoder import Encoder

Progress = Callable[[float], None]
Rows = list[list[int]]
"""Token ids of texts, with special tokens."""

MASKED_SHARE = 0.15
"""Share of the tokens that a score masks, as in pre-training."""

# Bytes of the logits of a batch.
_LOGITS = 1 << 27


class Job(ABC):
    """A computation on texts.

    Args:
        encoder: the model.
        options: options of the command.
    """

    def __init__(self, encoder: Encoder, options: EncodeOptions) -> None:
        self.encoder, self.options = encoder, options
        # A copy: the texts are tokenized in the background, and a tokenizer has one user at a time.
        self._tokenizer = copy.deepcopy(encoder.tokenizer)

    def settings(self) -> dict[str, Any]:
        """The settings that determine the result."""
        return {}

    def tokenize(self, documents: Sequence[Document]) -> Rows:
        """Token ids of texts, truncated to the model's context."""
        return self._ids([document.text for document in documents])

    def fault(self, document: Document, ids: list[int]) -> str | None:
        """Why a text cannot be used; None if it can."""
        return None

    @abstractmethod
    def compute(self, documents: Sequence[Document], rows: Rows, progress: Progress) -> dict[str, pyarrow.Array]:
        """Columns of the result, by name.

        Args:
            documents: one or more texts.
            rows: their token ids.
            progress: called with the completed share.
        """

    @abstractmethod
    def empty(self) -> dict[str, pyarrow.Array]:
        """The columns without rows."""

    def _ids(self, *texts: list[str]) -> Rows:
        encoded = self._tokenizer(*texts, truncation=True, max_length=self.encoder.max_length, verbose=False)
        rows: Rows = encoded["input_ids"]
        return rows


def check_head(encoder: Encoder, head: Head, option: str) -> None:
    """Raises `UsageError` if the model of an option has another head."""
    if encoder.head != head:
        article = "an" if encoder.head.name[0] in "aeiou" else "a"
        raise UsageError(f"{option} needs a {head.name}, but the model is {article} {encoder.head.name}.")


class Embed(Job):
    """A vector of each text."""

    def __init__(self, encoder: Encoder, options: EncodeOptions) -> None:
        super().__init__(encoder, options)
        self.ranges: np.ndarray | None = None
        prompt = encoder.default_prompt if options.prompt is None else options.prompt
        self.prompt = encoder.prompts.get(prompt, prompt) if prompt else ""
        # Also finds options that the model cannot follow before anything is written.
        self.width = self._vectors(self._ids([self.prompt + "。"])).shape[1]

    def settings(self) -> dict[str, Any]:
        return {
            "pooling": self.options.pooling,
            "prompt": self.prompt,
            "dimensions": self.options.dimensions,
            "normalize": not self.options.no_normalize,
            "precision": self.options.precision,
        }

    def tokenize(self, documents: Sequence[Document]) -> Rows:
        return self._ids([self.prompt + document.text for document in documents])

    def _vectors(self, rows: Rows, progress: Progress | None = None) -> np.ndarray:
        return self.encoder.encode(
            rows,
            pooling=self.options.pooling,
            dimensions=self.options.dimensions,
            normalize=not self.options.no_normalize,
            tokens_per_batch=self.options.tokens_per_batch,
            progress=progress,
        )

    def calibrate(self, rows: Rows) -> list[list[float]]:
        """Minimum and maximum of each dimension over the vectors of texts, for int8."""
        vectors = self._vectors(rows)
        return [vectors.min(0).tolist(), vectors.max(0).tolist()]

    def compute(self, documents: Sequence[Document], rows: Rows, progress: Progress) -> dict[str, pyarrow.Array]:
        vectors = self._vectors(rows, progress)
        if not np.isfinite(vectors).all():
            raise UsageError("the model gives vectors that are not finite. Try --dtype float32.")
        return self._columns(vectors)

    def empty(self) -> dict[str, pyarrow.Array]:
        return self._columns(np.empty((0, self.width), np.float32))

    def _columns(self, vectors: np.ndarray) -> dict[str, pyarrow.Array]:
        import pyarrow

        values = quantize(vectors, self.options.precision, self.ranges)
        return {"embedding": pyarrow.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])}


class Score(Job):
    """The mean log probability of masked tokens: 15 % of the tokens of each text, chosen by its id and the seed.

    A pseudo-log-likelihood, which masks one token at a time, would cost a pass per token. Here a text costs one pass,
    and its tokens see less context, so the two are not comparable.
    """

    def __init__(self, encoder: Encoder, options: EncodeOptions) -> None:
        super().__init__(encoder, options)
        check_head(encoder, MASKED_LM, "--scores")
        if encoder.tokenizer.mask_token_id is None:
            raise UsageError(f"--scores: the tokenizer {encoder.tokenizer.name_or_path} has no mask token.")

    def settings(self) -> dict[str, Any]:
        return {"seed": self.options.seed, "masked_share": MASKED_SHARE}

    def compute(self, documents: Sequence[Document], rows: Rows, progress: Progress) -> dict[str, pyarrow.Array]:
        import pyarrow

        special = np.array(self.encoder.tokenizer.all_special_ids)
        places = [
            masked_places(np.flatnonzero(~np.isin(ids, special)), document.id, self.options.seed)
            for document, ids in zip(documents, rows, strict=True)
        ]
        scores: list[float | None] = [None] * len(rows)
        limit = int(_LOGITS / 4 / self.encoder.config.vocab_size / MASKED_SHARE)
        done = 0
        for indices in split([len(ids) for ids in rows], min(self.options.tokens_per_batch, max(limit, 1))):
            for index, score in zip(
                indices, self._scores([rows[i] for i in indices], [places[i] for i in indices]), strict=True
            ):
                scores[index] = score
            done += len(indices)
            progress(done / len(rows))
        return self._columns(pyarrow.array(scores, pyarrow.float32()), [len(place) for place in places])

    def _scores(self, rows: Rows, places: Sequence[np.ndarray]) -> list[float | None]:
        batch = pack(rows, range(len(rows)))
        positions = np.concatenate([place + start for place, start in zip(places, batch.cu_seqlens, strict=False)])
        if not len(positions):
            return [None] * len(rows)
        ids = batch.input_ids.copy()
        ids[positions] = self.encoder.tokenizer.mask_token_id
        logits = self.encoder.runner.run(ids, batch.cu_seqlens, positions)["logits"]
        highest = logits.max(1)
        logits -= highest[:, None]
        chosen = logits[np.arange(len(positions)), batch.input_ids[positions]]
        values = chosen - np.log(np.exp(logits, out=logits).sum(1))
        parts = np.split(values, np.cumsum([len(place) for place in places])[:-1])
        return [float(part.mean(dtype=np.float64)) if len(part) else None for part in parts]

    def empty(self) -> dict[str, pyarrow.Array]:
        import pyarrow

        return self._columns(pyarrow.array([], pyarrow.float32()), [])

    @staticmethod
    def _columns(scores: pyarrow.Array, masked: list[int]) -> dict[str, pyarrow.Array]:
        import pyarrow

        return {"score": scores, "masked_tokens": pyarrow.array(masked, pyarrow.int32())}


def masked_places(places: np.ndarray, identity: str, seed: int) -> np.ndarray:
    """The places that are masked: 15 % of the given ones and at least one, in ascending order.

    Args:
        places: places of the tokens that can be masked.
        identity: id of the text, which decides together with the seed.
        seed: the seed.
    """
    if not len(places):
        return places
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    drawn = np.random.default_rng([seed, int.from_bytes(digest, "big")])
    count = max(1, round(MASKED_SHARE * len(places)))
    return np.sort(drawn.choice(places, count, replace=False))


class FillMask(Job):
    """The best candidates for each mask of a text, as JSON."""

    def __init__(self, encoder: Encoder, options: EncodeOptions) -> None:
        super().__init__(encoder, options)
        check_head(encoder, MASKED_LM, "--fill-mask")
        self.mask = str(encoder.tokenizer.mask_token)
        # Finds a wrong --top-k before anything is written.
        encoder.fill_mask([self.mask], options.top_k)

    def settings(self) -> dict[str, Any]:
        return {"top_k": self.options.top_k}

    def tokenize(self, documents: Sequence[Document]) -> Rows:
        return self._ids([with_mask_token(document.text, self.mask) for document in documents])

    def fault(self, document: Document, ids: list[int]) -> str | None:
        if self.encoder.tokenizer.mask_token_id not in ids:
            return f"has no mask. Write {' or '.join(MASK_ALIASES)} for the missing token."
        if len(ids) >= self.encoder.max_length:
            return f"has {self.encoder.max_length:,} tokens or more, the context length. Shorten it."
        return None

    def compute(self, documents: Sequence[Document], rows: Rows, progress: Progress) -> dict[str, pyarrow.Array]:
        import pyarrow

        results = self.encoder.fill_mask(
            [document.text for document in documents],
            self.options.top_k,
            tokens_per_batch=self.options.tokens_per_batch,
            progress=progress,
        )
        candidates = [
            json.dumps([[asdict(candidate) for candidate in mask] for mask in result.masks], ensure_ascii=False)
            for result in results
        ]
        return {"candidates": pyarrow.array(candidates, pyarrow.string())}

    def empty(self) -> dict[str, pyarrow.Array]:
        import pyarrow

        return {"candidates": pyarrow.array([], pyarrow.string())}


class Classify(Job):
    """The best label of each text or pair of texts, and its score."""

    def __init__(self, encoder: Encoder, options: EncodeOptions) -> None:
        super().__init__(encoder, options)
        check_head(encoder, SEQUENCE_CLASSIFICATION, "--classify")

    def tokenize(self, documents: Sequence[Document]) -> Rows:
        texts = [document.text for document in documents]
        if self.options.pair_column is None:
            return self._ids(texts)
        return self._ids(texts, [document.pair or "" for document in documents])

    def compute(self, documents: Sequence[Document], rows: Rows, progress: Progress) -> dict[str, pyarrow.Array]:
        results = self.encoder.classify(rows, self.options.tokens_per_batch, progress)
        return self._columns([result.label for result in results], [result.score for result in results])

    def empty(self) -> dict[str, pyarrow.Array]:
        return self._columns([], [])

    @staticmethod
    def _columns(labels: list[str], scores: list[float]) -> dict[str, pyarrow.Array]:
        import pyarrow

        return {
            "label": pyarrow.array(labels, pyarrow.string()),
            "score": pyarrow.array(scores, pyarrow.float32()),
        }


def job_of(encoder: Encoder, options: EncodeOptions) -> Job:
    """The job that the options choose."""
    if options.scores:
        return Score(encoder, options)
    if options.fill_mask:
        return FillMask(encoder, options)
    return Classify(encoder, options) if options.classify else Embed(encoder, options)
