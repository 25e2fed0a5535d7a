"""Training step (forward, backward, AdamW): tokens/s of real tokens, against transformers' ModernBERT with padding.

All candidates train on the same documents with the same masks and weights. This library reads them packed; the peer
reads them padded, four at a time, with and without its option `sparse_prediction`, in random order and sorted by
length, which is its fastest way. Full rows show the gain that does not come from padding.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.modeling.flops import training_flops
from llm_jp_modernbert.training.data.blocks import BlockMaker, BlockSettings
from llm_jp_modernbert.training.data.masking import Masking
from llm_jp_modernbert.training.data.sources import sources_of
from llm_jp_modernbert.training.data.stream import BatchStream

from ..measure import OURS, Candidate, Case
from ..models import FIRST_WORD, Compiled, Models, Shape

PEER = "transformers, padded"
SPARSE = "transformers, padded, sparse_prediction"
SORTED = "transformers, sorted by length, sparse_prediction"

MASKED = 0.3  # share of predicted tokens in random rows

_DOCUMENTS_AT_ONCE = 4  # per padded batch of the peer
# Steps in a row per turn: the first step after another model's is slower than the steps of a real run.
_IN_A_ROW = 2
_SAMPLED_BATCHES = 32  # batches from which the typical one is chosen
_BLOCK_CHARACTERS = 2_000_000  # per packing block; the batches depend on it
_WARM_UP_TOKENS = 128  # of each of the two documents of a warm-up step


@dataclass(frozen=True)
class Batch:
    """The documents of one optimizer step."""

    ids: Sequence[torch.Tensor]  # (tokens,) per document
    labels: Sequence[torch.Tensor]  # (tokens,) per document, -100 for tokens that are not predicted

    @property
    def lengths(self) -> list[int]:
        """Tokens per document."""
        return [len(document) for document in self.ids]

    @property
    def predicted(self) -> int:
        """Number of predicted tokens."""
        return sum(int((labels != -100).sum()) for labels in self.labels)

    def packed(self) -> dict[str, Any]:
        """All documents in one packed row, as the loader of a training run gives it."""
        boundaries = torch.tensor([0, *self.lengths]).cumsum(0).int()
        ids, labels = torch.cat(list(self.ids)), torch.cat(list(self.labels))
        row = {"input_ids": ids[None], "labels": labels[None], "label_positions": (labels != -100).nonzero()[:, 0]}
        return {**row, "cu_seqlens": boundaries, "max_seqlen": max(self.lengths)}

    def padded(self, rows: int, is_sorted: bool, pad: int) -> list[dict[str, Any]]:
        """Padded batches of `rows` documents, in random order or sorted by length."""
        stack: Any = partial(nn.utils.rnn.pad_sequence, batch_first=True)
        return [
            {
                "input_ids": stack(group.ids, padding_value=pad),
                "attention_mask": stack([torch.ones_like(document) for document in group.ids]),
                "labels": stack(group.labels, padding_value=-100),
            }
            for group in self._groups(rows, is_sorted)
        ]

    def padded_size(self, rows: int, is_sorted: bool) -> int:
        """Tokens of these padded batches, including padding."""
        return sum(len(group.ids) * max(group.lengths) for group in self._groups(rows, is_sorted))

    def _groups(self, rows: int, is_sorted: bool) -> list[Batch]:
        order = list(range(len(self.ids)))
        random.Random(0).shuffle(order)
        if is_sorted:
            order.sort(key=lambda index: len(self.ids[index]))
        return [self.part(order[first : first + rows]) for first in range(0, len(order), rows)]

    def part(self, indices: Sequence[int], longest: int | None = None) -> Batch:
        """Some of the documents, cut to `longest` tokens."""
        return Batch(*([documents[index][:longest] for index in indices] for documents in (self.ids, self.labels)))


def cases(
    files: Annotated[
        list[str] | None, typer.Argument(help="Files or folders of texts; by default rows of random ids.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer of the texts.")] = None,
    shape: Shape = "small",
    length: Annotated[int, typer.Option(help="Tokens per row.", min=4)] = 1024,
    rows: Annotated[int, typer.Option(help="Rows per batch.", min=1)] = 4,
    compiled: Compiled = True,
) -> Iterator[Case]:
    """Measure training tokens/s on real documents or full rows, against transformers with padding."""
    if not files:
        yield full_rows(Models(shape), rows, length, compiled)
    elif tokenizer is None:
        raise UsageError("texts need a tokenizer. Give one with --tokenizer.")
    else:
        batch = typical_batch(files, tokenizer, length, rows)
        yield real_documents(Models(shape), batch, rows, length, compiled)


def typical_batch(files: Sequence[str], tokenizer: str, length: int, rows: int) -> Batch:
    """Choose one of a training run's first batches: the one whose share of padding is nearest to that of all.

    Every turn uses this batch, so that differences between batches do not affect the rates.
    """
    loaded: Any = load_tokenizer(tokenizer)
    settings = BlockSettings(length, characters=_BLOCK_CHARACTERS)
    maker = BlockMaker(sources_of(list(files), "text"), settings, loaded)
    masking = Masking(loaded.mask_token_id, len(loaded), loaded.all_special_ids)
    batches = []
    for batch in islice(BatchStream(maker, masking, lambda step: rows).batches(), _SAMPLED_BATCHES):
        lengths = batch["info"].lengths.tolist()
        batches.append(Batch(batch["input_ids"][0].split(lengths), batch["labels"][0].split(lengths)))
    tokens = [sum(batch.lengths) for batch in batches]
    sizes = [[batch.padded_size(_DOCUMENTS_AT_ONCE, is_sorted) for is_sorted in (False, True)] for batch in batches]
    overall = [sum(column) / sum(tokens) for column in zip(*sizes, strict=True)]

    def distance(index: int) -> float:
        return max(abs(size / tokens[index] / ratio - 1) for size, ratio in zip(sizes[index], overall, strict=True))

    return batches[min(range(len(batches)), key=distance)]


def random_documents(vocabulary: int, tokens: int, longest: int, seed: int) -> Batch:
    """Draw documents of random tokens, 30 % of which are predicted; their median length is a third of the longest."""
    lengths = document_lengths(tokens, longest, seed)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(FIRST_WORD, vocabulary, (tokens,), generator=generator)
    labels = ids.where(torch.rand(tokens, generator=generator) < MASKED, -100)
    return Batch(ids.split(lengths), labels.split(lengths))


def document_lengths(tokens: int, longest: int, seed: int) -> list[int]:
    """Draw the lognormal lengths of documents with `tokens` tokens in total."""
    lengths: list[int] = []
    drawn = np.random.default_rng(seed)
    while (missing := tokens - sum(lengths)) > 0:
        lengths.append(min(missing, int(np.clip(drawn.lognormal(np.log(longest / 3), 0.8), 16, longest))))
    return lengths


def full_rows(models: Models, rows: int, length: int, compiled: bool) -> Case:
    """Rows of `length` random tokens without padding, 30 % of them predicted."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(FIRST_WORD, models.config.vocab_size, (rows, length), generator=generator)
    labels = ids.where(torch.rand(rows, length, generator=generator) < MASKED, -100)
    settings = {"rows": rows, "row": length}
    return training_case(f"{rows} × {length} full", models, Batch(list(ids), list(labels)), settings, compiled)


def real_documents(models: Models, batch: Batch, rows: int, length: int, compiled: bool) -> Case:
    """Real documents, which this library packs into `rows` rows of `length` tokens and the peer pads."""
    settings = {"rows": rows, "row": length, "documents": len(batch.ids)}
    is_sorted = len(batch.ids) > _DOCUMENTS_AT_ONCE
    name = f"{rows} × {length} of real documents"
    return training_case(name, models, batch, settings, compiled, is_sorted=is_sorted)


def training_case(
    name: str,
    models: Models,
    batch: Batch,
    settings: Mapping[str, Any],
    compiled: bool,
    *,
    documents_at_once: int = _DOCUMENTS_AT_ONCE,
    is_sorted: bool = False,
    variants: Mapping[str, Any] = MappingProxyType({}),
) -> Case:
    """Training steps of all models on one batch, which the peer reads in padded batches of `documents_at_once`.

    `is_sorted` adds batches sorted by length; `variants` are further models of the peer, which read such batches.
    """
    dtype = "bfloat16 autocast"
    # The first tokens of the two longest documents.
    warm_up = batch.part(sorted(range(len(batch.ids)), key=lambda index: -len(batch.ids[index]))[:2], _WARM_UP_TOKENS)
    optimizers: dict[nn.Parameter, torch.optim.Optimizer] = {}

    def step(model: Any, parts: Sequence[dict[str, Any]], predicted: int) -> None:
        # Models that share weights share an optimizer.
        weight = next(model.parameters())
        if weight not in optimizers:
            optimizers[weight] = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        items = torch.tensor(predicted, device=models.device)
        for part in parts:
            inputs = {key: value.to(models.device) if torch.is_tensor(value) else value for key, value in part.items()}
            with torch.autocast(models.device, dtype=torch.bfloat16):
                loss = model(**inputs, num_items_in_batch=items).loss
            loss.backward()
        optimizers[weight].step()
        optimizers[weight].zero_grad()

    def candidate(model: Any, parts: Callable[[Batch], list[dict[str, Any]]], **options: bool) -> Candidate:
        def run(turn: int) -> float:
            for option, value in options.items():
                setattr(model, option, value)
            used = batch if turn else warm_up
            step(model.train(), parts(used), used.predicted)
            return float(sum(used.lengths))

        return run

    def padded(is_sorted: bool) -> Callable[[Batch], list[dict[str, Any]]]:
        return lambda used: used.padded(documents_at_once, is_sorted, models.config.pad_token_id)

    tokens = sum(batch.lengths)
    padding = {"padding": 1 - tokens / batch.padded_size(documents_at_once, False)}
    # One model for all of the peer's candidates, since it is large with its optimizer.
    peer = models.peer("float32")
    candidates = {
        PEER: candidate(peer, padded(False), sparse_prediction=False),
        SPARSE: candidate(peer, padded(False), sparse_prediction=True),
    }
    if is_sorted:
        candidates[SORTED] = candidate(peer, padded(True), sparse_prediction=True)
        for variant, model in variants.items():
            candidates[f"{SORTED}, {variant}"] = candidate(model, padded(True), sparse_prediction=True)
        padding["padding, sorted"] = 1 - tokens / batch.padded_size(documents_at_once, True)
    for ours, model in models.candidates("float32", compiled).items():
        candidates[ours] = candidate(model, lambda used: [used.packed()])
    settings = {
        **models.settings,
        "dtype": dtype,
        **settings,
        "predicted": batch.predicted,
        **{key: f"{share:.0%}" for key, share in padding.items()},
        "steps in a row": _IN_A_ROW,
    }
    operations = {OURS: training_flops(models.config, batch.lengths, batch.predicted) / tokens}
    name = f"training step, {name}, {dtype}"
    return Case(name, "tokens", PEER, candidates, settings, operations, memory=True, in_a_row=_IN_A_ROW)
