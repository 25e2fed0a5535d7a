"""Pseudo-perplexity by length: how well a masked language model uses a long text.

Pseudo-perplexity is exp of the mean cross-entropy of tokens, each masked alone (Salazar et al. 2020,
"Masked Language Model Scoring", equation 2; by length in NeoBERT, Le Breton et al. 2025).

Paper's protocol: documents of different lengths, a figure for each. A longer document is another document, too, so
that length and text are confounded. The improved protocol takes long documents alone and keeps the target positions
while the context around them grows; nothing but the context differs between two of its figures.

Figures per token are of one tokenizer. Figures per character compare tokenizers, with one caution: the rest of a word
or of a character's bytes stays in sight, which favours tokenizers that cut finely (Kauf and Ivanova 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.masked_logits import batches, masked_logits

from ..data import readers as datasets
from ..data.spans import special_tokens, with_characters
from ..metrics.intervals import bootstrap
from ..report.results import Measurement
from .task import Data, Options, Outcome, Progress, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..encoders.models import EvaluatedModel

BINS = ((0, 1024), (1024, 2048), (2048, 4096), (4096, 8192))
"""Tokens of a document, special ones included: above the first, up to the second."""

CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192)
"""Tokens that are read, special ones included."""


@dataclass(frozen=True)
class Target:
    """A token to be masked.

    Attributes:
        row: token ids that are read, special ones included; several targets may share them.
        position: its place in the row.
    """

    row: Sequence[int]
    position: int


@dataclass(frozen=True)
class PseudoPerplexity(Task):
    """Attributes are the settings.

    Attributes:
        positions: masked positions of a document.
        documents: documents of a bin (paper), or long ones (improved).
        contexts: tokens of context; those beyond what the model reads are left out.
    """

    positions: int = 64
    documents: int = 20
    contexts: tuple[int, ...] = CONTEXTS

    name: ClassVar[str] = "pseudo-perplexity"

    @classmethod
    def for_options(cls, options: Options) -> PseudoPerplexity:
        """With the protocol's settings."""
        if options.protocol == "paper":
            return cls(options, positions=100, documents=options.limit or 500, contexts=())
        return cls(options, documents=options.limit or 20)

    def load(self) -> Data:
        """Texts of any length; which of them fit is seen when the model's tokenizer has cut them."""
        return datasets.documents(self.options)

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Pseudo-perplexity by bin of length (paper) or by context (improved)."""
        if self.options.protocol == "paper":
            return self._by_document(model, data, progress)
        return self._by_context(model, data, progress)

    def _by_document(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        tokenizer, longest = model.tokenizer, model.max_length
        bins: dict[tuple[int, int], list[tuple[int, list[int]]]] = {limits: [] for limits in BINS}
        order = np.random.default_rng(self.options.seed).permutation(len(data.examples))
        for index in order.tolist():
            if all(len(found) >= self.documents for found in bins.values()):
                break
            ids = _ids(tokenizer, data.examples[index])
            limits = next((limits for limits in BINS if limits[0] < len(ids) <= limits[1]), None)
            if limits and len(ids) <= longest and len(ids) > 2 and len(bins[limits]) < self.documents:
                bins[limits].append((index, ids))
        chosen = [(limits, index, ids) for limits, found in bins.items() for index, ids in found]
        if not chosen:
            raise UsageError(f"{data.name}: no document is within the {longest:,} tokens that {model.name} reads.")
        drawn = np.random.default_rng([self.options.seed, 1])
        # The paper draws with replacement, and never the special tokens at the ends.
        places = [drawn.integers(1, len(ids) - 1, self.positions).tolist() for _, _, ids in chosen]
        targets = [Target(ids, place) for (_, _, ids), at in zip(chosen, places, strict=True) for place in at]
        losses = np.array(cross_entropies(model.masked_lm, tokenizer, targets, model.tokens_per_batch, progress))
        instances = []
        for (limits, index, ids), found in zip(chosen, losses.reshape(len(chosen), -1), strict=True):
            value = float(np.exp(found.mean()))
            instances.append({"document": index, "bin": list(limits), "length": len(ids), "pseudo_perplexity": value})
        measurements = []
        for limits in BINS:
            of_bin = np.array([item["pseudo_perplexity"] for item in instances if item["bin"] == list(limits)])
            if len(of_bin):
                low, high = bootstrap((of_bin,), np.median, self.options.seed)
                measurements.append(
                    Measurement(
                        "median_pseudo_perplexity",
                        float(np.median(of_bin)),
                        False,
                        f"length-{limits[0]}-{limits[1]}",
                        len(of_bin),
                        low,
                        high,
                        context=limits[1],
                    )
                )
        every = np.array([item["pseudo_perplexity"] for item in instances])
        measurements.append(Measurement("median_pseudo_perplexity", float(np.median(every)), False, "", len(every)))
        return Outcome(measurements, instances)

    def _by_context(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        tokenizer = model.tokenizer
        contexts = [context for context in self.contexts if context <= model.max_length]
        if not contexts:
            raise UsageError(f"{model.name} reads {model.max_length:,} tokens, less than {min(self.contexts):,}.")
        before, after = special_tokens(tokenizer)
        bare = len(before) + len(after)
        # All targets lie in the innermost context, so that each larger one holds them, too.
        inner = contexts[0] - bare
        found = self._long_documents(tokenizer, data, contexts[-1] - bare, inner)
        if not found:
            raise UsageError(f"{data.name}: no document has {contexts[-1]:,} tokens. Name longer ones by --texts.")
        drawn = np.random.default_rng(self.options.seed)
        targets, characters = [], []
        for _, ids, shares in found:
            places = drawn.choice(_known(tokenizer, ids, inner), min(self.positions, inner), replace=False)
            characters.append([shares[place] for place in places])
            for context in contexts:
                start = len(ids) // 2 - (context - bare) // 2
                row = [*before, *ids[start : start + context - bare], *after]
                targets += [Target(row, int(place) - start + len(before)) for place in places]
        losses = cross_entropies(model.masked_lm, tokenizer, targets, model.tokens_per_batch, progress)
        table = np.array(losses).reshape(len(found), len(contexts), -1)
        counts = np.array(characters)
        measurements: list[Measurement] = []
        for column, context in enumerate(contexts):
            measurements += _figures(table[:, column], counts, f"context-{context}", context, self.options.seed)
        # What stands for the whole is the longest context, which another model may not read.
        measurements += _figures(table[:, -1], counts, "", contexts[-1], self.options.seed)
        instances = [
            {
                "document": index,
                "context": context,
                "pseudo_perplexity": float(np.exp(table[row, column].mean())),
                "cross_entropies": [round(float(loss), 5) for loss in table[row, column]],
                "characters": counts[row].tolist(),
            }
            for row, (index, _, _) in enumerate(found)
            for column, context in enumerate(contexts)
        ]
        return Outcome(measurements, instances)

    def _long_documents(
        self, tokenizer: PreTrainedTokenizerBase, data: Data, least: int, inner: int
    ) -> list[tuple[int, list[int], list[float]]]:
        """Documents of so many tokens at least: number, ids, and how many characters each stands for."""
        found: list[tuple[int, list[int], list[float]]] = []
        for index in np.random.default_rng([self.options.seed, 2]).permutation(len(data.examples)).tolist():
            # No tokenizer makes more tokens than bytes: shorter texts need not be cut at all.
            if len(data.examples[index].encode()) < least:
                continue
            ids, shares = with_characters(tokenizer, data.examples[index])
            if len(ids) >= least and len(_known(tokenizer, ids, inner)) >= min(self.positions, inner):
                found.append((index, ids, shares))
            if len(found) == self.documents:
                break
        return found


def _known(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], inner: int) -> list[int]:
    """Places in the middle of a document that may be targets: an unknown token says too little to be guessed."""
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
        targets: what is masked.
        tokens_per_batch: tokens that are read at once.
        progress: is told the share of tokens that are done.
    """
    import torch

    losses = [0.0] * len(targets)
    total = sum(len(target.row) for target in targets)
    done = 0
    for batch in _by_length(targets, tokens_per_batch):
        rows = []
        for index in batch:
            row = list(targets[index].row)
            row[targets[index].position] = int(tokenizer.mask_token_id)
            rows.append(row)
        logits = torch.cat(masked_logits(model, rows, [[targets[index].position] for index in batch]))
        wanted = torch.tensor([targets[index].row[targets[index].position] for index in batch], device=logits.device)
        found = torch.nn.functional.cross_entropy(logits, wanted, reduction="none").tolist()
        for index, loss in zip(batch, found, strict=True):
            losses[index] = loss
        done += sum(len(row) for row in rows)
        progress(done / total)
    return losses


def _figures(
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


def _by_length(targets: Sequence[Target], limit: int) -> Iterable[list[int]]:
    """Batches of equal or nearly equal lengths, for models that pad; the longest come first, when memory is tight."""
    order = sorted(range(len(targets)), key=lambda index: -len(targets[index].row))
    for batch in batches([len(targets[index].row) for index in order], limit):
        yield [order[place] for place in batch]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    return ids
