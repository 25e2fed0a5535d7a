"""Pseudo-perplexity by length: how well a masked language model uses long context.

Pseudo-perplexity is exp of the mean cross-entropy of tokens, each masked alone (Salazar et al. 2020,
"Masked Language Model Scoring", equation 2; by length in NeoBERT, Le Breton et al. 2025).

Paper's protocol: one value per document, for documents of different lengths. Longer documents are different documents,
so length and text are confounded. The default protocol takes only long documents and keeps the target positions while
the context around them grows, so that only the context differs.

Values per token depend on the tokenizer. Values per character compare tokenizers, with one caveat: the rest of a word
or of a character's bytes stays visible, which favours fine-grained tokenizers (Kauf and Ivanova 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.intervals import bootstrap
from llm_jp_modernbert.core.plots import legend_below, panels_of, use_log_scale_if_wide
from llm_jp_modernbert.core.results import Measurement
from llm_jp_modernbert.inference.masked_logits import batches, masked_logits
from llm_jp_modernbert.tokenization.spans import special_tokens, with_characters

from ..data import readers
from ..data.options import Data, Options
from ..report.plots import Measured, short_labels
from .task import Highlight, Outcome, Progress, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..encoders.models import EvaluatedModel

BINS = ((0, 1024), (1024, 2048), (2048, 4096), (4096, 8192))
"""Document lengths in tokens including special tokens: above the first number, up to the second."""

CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192)
"""Input lengths in tokens, including special tokens."""


@dataclass(frozen=True)
class Target:
    """A token to mask.

    Attributes:
        row: input ids, including special tokens; several targets may share a row.
        position: index in the row.
    """

    row: Sequence[int]
    position: int


@dataclass(frozen=True)
class PseudoPerplexity(Task):
    """Lower is better.

    Attributes:
        positions: masked positions per document.
        documents: number of documents: per bin (paper), or in total (default).
        contexts: tokens of context; those beyond the model's maximum length are skipped.
    """

    positions: int = 64
    documents: int = 20
    contexts: tuple[int, ...] = CONTEXTS

    name = "pseudo-perplexity"
    hub_task = "fill-mask"
    highlights = (
        Highlight("pseudo_perplexity", "Pseudo-perplexity at 1,024 tokens", context=1024),
        Highlight("pseudo_perplexity", "Pseudo-perplexity at 8,192 tokens", context=8192),
        Highlight("median_pseudo_perplexity", "Median pseudo-perplexity, paper protocol", "paper"),
    )

    @classmethod
    def for_options(cls, options: Options) -> PseudoPerplexity:
        if options.protocol == "paper":
            return cls(options, positions=100, documents=options.limit or 500, contexts=())
        return cls(options, documents=options.limit or 20)

    def load(self) -> Data:
        """Documents of any length; the tokenizer decides later which of them fit."""
        return readers.documents(self.options)

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Pseudo-perplexity by length of the document (paper) or by context (default)."""
        if self.options.protocol == "paper":
            return self._by_document(model, data, progress)
        tokenizer = model.tokenizer
        contexts = [context for context in self.contexts if context <= model.max_length]
        if not contexts:
            raise UsageError(f"{model.name} reads {model.max_length:,} tokens, less than {min(self.contexts):,}.")
        before, after = special_tokens(tokenizer)
        special = len(before) + len(after)
        # All targets are inside the smallest context, so every larger one contains them.
        inner = contexts[0] - special
        documents = self._long_documents(tokenizer, data, contexts[-1] - special, inner)
        if not documents:
            raise UsageError(f"{data.name}: no document has {contexts[-1]:,} tokens. Set --texts to longer ones.")
        drawn = np.random.default_rng(self.options.seed)
        targets, characters = [], []
        for _, ids, shares in documents:
            places = drawn.choice(_known(tokenizer, ids, inner), min(self.positions, inner), replace=False)
            characters.append([shares[place] for place in places])
            for context in contexts:
                start = len(ids) // 2 - (context - special) // 2
                row = [*before, *ids[start : start + context - special], *after]
                targets += [Target(row, int(place) - start + len(before)) for place in places]
        losses = cross_entropies(model.masked_lm, tokenizer, targets, model.tokens_per_batch, progress)
        table = np.reshape(losses, (len(documents), len(contexts), -1))
        counts = np.array(characters)
        measurements: list[Measurement] = []
        for column, context in enumerate(contexts):
            measurements += _measurements(table[:, column], counts, f"context-{context}", context, self.options.seed)
        # The longest context represents the whole; it is part of the value, since other models may be shorter.
        measurements += _measurements(table[:, -1], counts, "", contexts[-1], self.options.seed)
        instances = [
            {
                "document": index,
                "context": context,
                "pseudo_perplexity": float(np.exp(table[row, column].mean())),
                "cross_entropies": [round(float(loss), 5) for loss in table[row, column]],
                "characters": counts[row].tolist(),
            }
            for row, (index, *_) in enumerate(documents)
            for column, context in enumerate(contexts)
        ]
        return Outcome(measurements, instances)

    def _by_document(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        documents = self._documents_by_bin(model, data)
        drawn = np.random.default_rng([self.options.seed, 1])
        # Like the paper: with replacement, and without the special tokens.
        targets = [
            Target(ids, place)
            for *_, ids in documents
            for place in drawn.integers(1, len(ids) - 1, self.positions).tolist()
        ]
        losses = cross_entropies(model.masked_lm, model.tokenizer, targets, model.tokens_per_batch, progress)
        values = np.exp(np.reshape(losses, (len(documents), -1)).mean(1))
        instances = [
            {"document": index, "bin": list(limits), "length": len(ids), "pseudo_perplexity": float(value)}
            for (limits, index, ids), value in zip(documents, values, strict=True)
        ]
        metric, measurements = "median_pseudo_perplexity", []
        for limits in dict.fromkeys(limits for limits, *_ in documents):
            part = values[[limits == others for others, *_ in documents]]
            low, high = bootstrap((part,), np.median, self.options.seed)
            subset, median = f"length-{limits[0]}-{limits[1]}", float(np.median(part))
            measurements.append(Measurement(metric, median, False, subset, len(part), low, high, context=limits[1]))
        measurements.append(Measurement(metric, float(np.median(values)), False, examples=len(values)))
        return Outcome(measurements, instances)

    def _documents_by_bin(self, model: EvaluatedModel, data: Data) -> list[tuple[tuple[int, int], int, list[int]]]:
        """Limits of the bin, index and ids of random documents, bin by bin."""
        bins: dict[tuple[int, int], list[tuple[int, list[int]]]] = {limits: [] for limits in BINS}
        for index in np.random.default_rng(self.options.seed).permutation(len(data.examples)).tolist():
            if all(len(documents) >= self.documents for documents in bins.values()):
                break
            ids: list[int] = model.tokenizer(data.examples[index], verbose=False)["input_ids"]
            limits = next((limits for limits in BINS if limits[0] < len(ids) <= limits[1]), None)
            if limits and 2 < len(ids) <= model.max_length and len(bins[limits]) < self.documents:
                bins[limits].append((index, ids))
        chosen = [(limits, index, ids) for limits, documents in bins.items() for index, ids in documents]
        if not chosen:
            raise UsageError(f"{data.name}: no document fits into the {model.max_length:,} tokens of {model.name}.")
        return chosen

    def _long_documents(
        self, tokenizer: PreTrainedTokenizerBase, data: Data, length: int, inner: int
    ) -> list[tuple[int, list[int], list[float]]]:
        """Index, ids and characters per token of random documents with at least `length` tokens."""
        documents: list[tuple[int, list[int], list[float]]] = []
        for index in np.random.default_rng([self.options.seed, 2]).permutation(len(data.examples)).tolist():
            # A text has at most as many tokens as bytes, so shorter ones are skipped untokenized.
            if len(data.examples[index].encode()) < length:
                continue
            ids, shares = with_characters(tokenizer, data.examples[index])
            if len(ids) >= length and len(_known(tokenizer, ids, inner)) >= min(self.positions, inner):
                documents.append((index, ids, shares))
            if len(documents) == self.documents:
                break
        return documents

    @classmethod
    def plottable(cls, measured: Measured) -> bool:
        """Only with values by context, or with those of the documents, which published results lack."""
        return bool(measured.instances if measured.rows[0].protocol == "paper" else _by_context(measured))

    @classmethod
    def plot(cls, measured: Sequence[Measured]) -> Figure:
        """Value by context (default), or by length of the document with a histogram of lengths (paper)."""
        if measured[0].rows[0].protocol == "paper":
            return _plot_by_length(measured)
        figure, (axes,) = panels_of(1)
        values: list[float] = []
        ticks: set[int] = set()
        # More bands would cover each other.
        has_bands = len(measured) <= 2 and all(None not in point for model in measured for point in _by_context(model))
        for model, label in zip(measured, short_labels(measured), strict=True):
            points = _by_context(model)
            contexts, heights, low, high = zip(*points, strict=True)
            (line,) = axes.plot(contexts, heights, marker="o", ms=4, label=label)
            if has_bands:
                axes.fill_between(contexts, low, high, alpha=0.2, color=line.get_color(), lw=0)
            values += heights
            ticks.update(contexts)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(ticks), [f"{tick:,}" for tick in sorted(ticks)])
        axes.set_xlabel("tokens of context around the same targets")
        axes.set_ylabel("pseudo-perplexity (lower is better)" + "\nwith 95 % interval" * has_bands)
        use_log_scale_if_wide(axes, values)
        legend_below(figure, axes)
        return figure


def _by_context(measured: Measured) -> list[tuple[Any, ...]]:
    """Context length, pseudo-perplexity and the ends of its interval, for each context length."""
    rows = (row for row in measured.rows if row.metric == "pseudo_perplexity" and row.subset)
    return [(row.context, row.value, row.low, row.high) for row in rows if row.context and row.value]


def _known(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], inner: int) -> list[int]:
    """Places around the middle of a document that may be targets; unknown tokens are not predictable."""
    start = len(ids) // 2 - inner // 2
    return [place for place in range(start, start + inner) if ids[place] != tokenizer.unk_token_id]


def cross_entropies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    targets: Sequence[Target],
    tokens_per_batch: int,
    progress: Progress = lambda share: None,
) -> list[float]:
    """Cross-entropy in nats of each target, masked alone in its row.

    Args:
        model: a masked language model in evaluation mode.
        tokenizer: its tokenizer.
        targets: the tokens to mask.
        tokens_per_batch: maximum tokens of a batch.
        progress: called with the completed share.
    """
    import torch

    losses = [0.0] * len(targets)
    lengths = [len(target.row) for target in targets]
    # Similar lengths together for models that pad; the longest first, to run out of memory early.
    order = sorted(range(len(targets)), key=lambda index: -lengths[index])
    done = 0
    for places in batches([lengths[index] for index in order], tokens_per_batch):
        batch = [order[place] for place in places]
        rows = []
        for index in batch:
            row = list(targets[index].row)
            row[targets[index].position] = int(tokenizer.mask_token_id)
            rows.append(row)
        logits = torch.cat(masked_logits(model, rows, [[targets[index].position] for index in batch]))
        labels = torch.tensor([targets[index].row[targets[index].position] for index in batch], device=logits.device)
        for index, loss in zip(
            batch, torch.nn.functional.cross_entropy(logits, labels, reduction="none").tolist(), strict=True
        ):
            losses[index] = loss
        done += sum(map(len, rows))
        progress(done / sum(lengths))
    return losses


def _measurements(
    losses: np.ndarray, characters: np.ndarray, subset: str, context: int, seed: int
) -> Iterator[Measurement]:
    """Per token and per character; `losses` and `characters` are `(documents, positions)`."""
    from ..metrics.pseudo_perplexity.pseudo_perplexity import pseudo_perplexity

    sums = losses.sum(1)
    tokens = np.full(len(losses), losses.shape[1])
    for metric, counts in (("pseudo_perplexity", tokens), ("pseudo_perplexity_per_character", characters.sum(1))):
        value = float(pseudo_perplexity(sums, counts))
        low, high = bootstrap((sums, counts), pseudo_perplexity, seed)
        yield Measurement(metric, value, False, subset, losses.size, low, high, context=context)


def _plot_by_length(measured: Sequence[Measured]) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure, (scatter, histogram) = panels_of(2)
    values: list[float] = []
    for model, label in zip(measured, short_labels(measured), strict=True):
        lengths: list[Any] = [item["length"] for item in model.instances]
        heights = [item["pseudo_perplexity"] for item in model.instances]
        scatter.scatter(lengths, heights, s=6, alpha=0.5, label=label)
        histogram.hist(lengths, bins=32, range=(0, 8192), histtype="step", label=label)
        values += heights
    if not use_log_scale_if_wide(scatter, values):
        # Crop the few documents that every model predicts badly.
        scatter.set_ylim(0, 1.1 * float(np.quantile(values, 0.98)))
    scatter.set_xlabel("tokens of the document")
    scatter.set_ylabel("pseudo-perplexity (lower is better)")
    histogram.set_xlabel("tokens of the document")
    histogram.set_ylabel("documents")
    histogram.yaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, scatter)
    return figure
