"""Measure what a change of the vocabulary costs on held-out text.

Both models see the same text with the same characters masked. The text is divided into spans at the places where both
tokenizers have a boundary between tokens, so a span consists of whole tokens for both, mostly of one. A share of the
spans is masked. The cross-entropy of their characters, and the share of spans that are predicted completely, compare
the models, which values per token do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from llm_jp_modernbert.core.intervals import bootstrap
from llm_jp_modernbert.core.results import Measurement
from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel
from llm_jp_modernbert.inference.masked_logits import batches, masked_logits
from llm_jp_modernbert.tokenization.spans import special_tokens

MASKED_SHARE = 0.15
"""Share of the spans that are masked."""

# Characters of a text that a model reads at once, and the most tokens of a character.
_CHUNK = 1000
_BYTES = 4

# Columns of the sums by document.
_TOKENS, _CHARACTERS, _EXACT, _LOSS, _MASKED_CHARACTERS, _RIGHT, _MASKED, _RIGHT_SPANS, _SPANS = range(9)

# Metric → numerator, denominator, whether higher values are better, and scale.
_RATIOS = {
    "tokens_per_character": (_TOKENS, _CHARACTERS, False, 1),
    "characters_per_token": (_CHARACTERS, _TOKENS, True, 1),
    "round_trips": (_EXACT, None, True, 100),
}
_MASKED_RATIOS = {
    "masked_accuracy": (_RIGHT, _MASKED, True, 100),
    "span_accuracy": (_RIGHT_SPANS, _SPANS, True, 100),
    "loss_per_character": (_LOSS, _MASKED_CHARACTERS, False, 1),
}

Interval = tuple[float | None, float | None]
"""Ends of a 95 % interval; None for a single document."""

Sums = npt.NDArray[np.float64]
"""`(documents, 9)` sums."""


@dataclass(frozen=True)
class _Chunk:
    """A part of a document: ids of a tokenizer, the span of each token, the masked tokens, and their characters."""

    document: int
    ids: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    characters: int


def measure(
    models: Sequence[EvaluatedModel],
    texts: Sequence[str],
    has_vocabulary_head: bool,
    seed: int,
    progress: Callable[[float], None],
) -> tuple[list[list[Measurement]], dict[str, Interval]]:
    """The measurements of each model, and the interval of the change of each metric.

    Args:
        models: the model before and after.
        texts: held-out documents.
        has_vocabulary_head: whether the models predict tokens.
        seed: seed of the masks.
        progress: called with the completed share.
    """
    sums = [_tokenized(model.tokenizer, texts) for model in models]
    if has_vocabulary_head:
        chunks = _chunks(models, texts, seed)
        for number, (model, table, parts) in enumerate(zip(models, sums, chunks, strict=True)):
            done = 0
            for part in _batched(model, parts):
                _add_predictions(model, part, table)
                done += len(part)
                progress((number + done / len(parts)) / len(models))
    ratios = {**_RATIOS, **(_MASKED_RATIOS if has_vocabulary_head else {})}
    measurements = [[_measurement(table, metric, *ratio, seed) for metric, ratio in ratios.items()] for table in sums]
    return measurements, {metric: _change(sums[0], sums[1], *ratio, seed) for metric, ratio in ratios.items()}


def _tokenized(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Sums:
    table = np.zeros((len(texts), 9))
    for row, text in zip(table, texts, strict=True):
        ids = _encoded(tokenizer, text)["input_ids"]
        exact = tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        row[[_TOKENS, _CHARACTERS, _EXACT]] = len(ids), len(text), exact
    return table


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, **options: bool) -> Any:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False, **options)


def _chunks(models: Sequence[EvaluatedModel], texts: Sequence[str], seed: int) -> list[list[_Chunk]]:
    """The chunks of all documents in which a span is masked, for each model."""
    length = min(_CHUNK, *((model.max_length - 2) // _BYTES for model in models))
    drawn = np.random.default_rng(seed)
    chunks: list[list[_Chunk]] = [[] for _ in models]
    for document, text in enumerate(texts):
        for start in range(0, len(text), length):
            encoded = [
                _encoded(model.tokenizer, text[start : start + length], return_offsets_mapping=True)
                for model in models
            ]
            ids = [np.array(part["input_ids"], dtype=np.int64) for part in encoded]
            ends = [np.array([end for _, end in part["offset_mapping"]], dtype=np.int64) for part in encoded]
            shared = reduce(np.intersect1d, ends)
            spans = [np.searchsorted(shared, end) for end in ends]
            characters = np.diff(shared, prepend=0)
            masked = (drawn.random(len(shared)) < MASKED_SHARE) & (characters > 0)
            for model, tokens, span in zip(models, ids, spans, strict=True):
                # Unknown tokens are not predictable.
                special = np.isin(tokens, model.tokenizer.all_special_ids) | (span == len(shared))
                masked[span[special & (span < len(shared))]] = False
            for part, tokens, span in zip(chunks, ids, spans, strict=True):
                places = np.flatnonzero(np.append(masked, False)[span])
                if len(places):
                    part.append(_Chunk(document, tokens, span, places, int(characters[masked].sum())))
    return chunks


def _batched(model: EvaluatedModel, chunks: Sequence[_Chunk]) -> Iterator[list[_Chunk]]:
    for places in batches([len(chunk.ids) + 2 for chunk in chunks], model.tokens_per_batch):
        yield [chunks[place] for place in places]


def _add_predictions(model: EvaluatedModel, chunks: Sequence[_Chunk], table: Sums) -> None:
    """Adds the predictions of the masked tokens of a batch to the sums of their documents."""
    import torch

    before, after = special_tokens(model.tokenizer)
    rows, positions = [], []
    for chunk in chunks:
        ids = chunk.ids.copy()
        ids[chunk.places] = model.tokenizer.mask_token_id
        rows.append([*before, *ids.tolist(), *after])
        positions.append((chunk.places + len(before)).tolist())
    for chunk, logits in zip(chunks, masked_logits(model.masked_lm, rows, positions), strict=True):
        targets = torch.from_numpy(chunk.ids[chunk.places]).to(logits.device)
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        right = (logits.argmax(-1) == targets).cpu().numpy()
        spans = chunk.spans[chunk.places]
        wrong_spans = np.unique(spans[~right])
        number = len(np.unique(spans))
        table[chunk.document, [_LOSS, _MASKED_CHARACTERS]] += float(loss), chunk.characters
        table[chunk.document, [_RIGHT, _MASKED]] += right.sum(), len(right)
        table[chunk.document, [_RIGHT_SPANS, _SPANS]] += number - len(wrong_spans), number


def _measurement(
    table: Sums, metric: str, above: int, below: int | None, higher_is_better: bool, scale: int, seed: int
) -> Measurement:
    """A ratio of sums with its interval over the documents."""
    samples = _samples(table, above, below)
    low, high = bootstrap(samples, _ratio, seed) if len(samples[0]) else (None, None)
    value = float(_ratio(*samples)) if len(samples[0]) else None
    return Measurement(metric, value, higher_is_better, low=low, high=high, scale=scale)


def _change(
    before: Sums, after: Sums, above: int, below: int | None, higher_is_better: bool, scale: int, seed: int
) -> Interval:
    """The interval of a change: a difference of shares, or else a relative change. Documents are drawn for both."""

    def change(old_above: Any, old_below: Any, new_above: Any, new_below: Any, axis: int = -1) -> Any:
        old, new = _ratio(old_above, old_below, axis), _ratio(new_above, new_below, axis)
        return new - old if scale > 1 else new / old - 1

    samples = (*_samples(before, above, below), *_samples(after, above, below))
    return bootstrap(samples, change, seed) if len(samples[0]) else (None, None)


def _samples(table: Sums, above: int, below: int | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The two columns of a ratio. Documents without a masked span say nothing."""
    totals = np.ones(len(table)) if below is None else table[:, below]
    return table[totals > 0, above], totals[totals > 0]


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any], axis: int = -1) -> Any:
    return above.sum(axis) / below.sum(axis)
