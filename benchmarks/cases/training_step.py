"""Training step (forward, backward, AdamW): tokens/s of real tokens, against transformers' ModernBERT with padding.

All candidates train on the same documents with the same masks and weights. This library reads them packed; the peer
reads them padded, four at a time, with and without its option `sparse_prediction`, in random order and sorted by
length, which is its fastest way. Full rows show the gain that does not come from padding.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import torch
import typer
from torch import nn

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.modeling.flops import training_flops

from ..measure import OURS, Candidate, Case
from ..models import FIRST_WORD, Models, batch_stream
from ..options import Compiled, Shape

PEER = "transformers, padded"
SPARSE = "transformers, padded, sparse_prediction"
SORTED = "transformers, sorted by length, sparse_prediction"

MASKED = 0.3
"""Share of predicted tokens in random rows."""
DOCUMENTS_AT_ONCE = 4
"""Documents per padded batch of the peer."""

# Steps in a row per turn: the first step after another model's is slower than the steps of a real run.
_IN_A_ROW = 2
# Number of batches from which the typical one is chosen.
_SAMPLED_BATCHES = 32
# Tokens of each of the two documents of a warm-up step.
_WARM_UP_TOKENS = 128


@dataclass(frozen=True)
class Batch:
    """The documents of one optimizer step.

    Attributes:
        ids: token ids, `(tokens,)` per document.
        labels: labels, `(tokens,)` per document, -100 for tokens that are not predicted.
    """

    ids: Sequence[torch.Tensor]
    labels: Sequence[torch.Tensor]

    @property
    def lengths(self) -> list[int]:
        """Tokens per document."""
        return [len(document) for document in self.ids]

    @property
    def predicted(self) -> int:
        """Number of predicted tokens."""
        return sum(int((labels != -100).sum()) for labels in self.labels)

    def packed(self) -> dict[str, Any]:
        """All documents in one packed row."""
        boundaries = torch.tensor([0, *self.lengths]).cumsum(0).int()
        row = {"input_ids": torch.cat(list(self.ids))[None], "labels": torch.cat(list(self.labels))[None]}
        return {**row, "cu_seqlens": boundaries, "max_seqlen": max(self.lengths)}

    def padded(self, rows: int, is_sorted: bool, pad: int) -> list[dict[str, Any]]:
        """Padded batches of `rows` documents, in random order or sorted by length."""

        def stack(parts: list[torch.Tensor], value: int) -> torch.Tensor:
            return nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)

        return [
            {
                "input_ids": stack([self.ids[index] for index in group], pad),
                "attention_mask": stack([torch.ones_like(self.ids[index]) for index in group], 0),
                "labels": stack([self.labels[index] for index in group], -100),
            }
            for group in self._groups(rows, is_sorted)
        ]

    def padded_size(self, rows: int, is_sorted: bool) -> int:
        """Tokens of these padded batches, including padding."""
        lengths = self.lengths
        return sum(len(group) * max(lengths[index] for index in group) for group in self._groups(rows, is_sorted))

    def _groups(self, rows: int, is_sorted: bool) -> list[list[int]]:
        order = list(range(len(self.ids)))
        random.Random(0).shuffle(order)
        if is_sorted:
            order.sort(key=lambda index: len(self.ids[index]))
        return [order[first : first + rows] for first in range(0, len(order), rows)]


def cases(
    files: Annotated[
        list[str] | None, typer.Argument(help="Files or folders of texts; by default rows of random ids.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer of the texts.")] = None,
    shape: Shape = "small",
    length: Annotated[int, typer.Option(help="Tokens per row.", min=4)] = 1024,
    rows: Annotated[int, typer.Option(help="Rows per batch.", min=1)] = 4,
    bf16: Annotated[bool, typer.Option("--bf16", help="Autocast to bfloat16.")] = False,
    compiled: Compiled = True,
) -> Iterator[Case]:
    """Measure training tokens/s on real documents or full rows, against transformers with padding."""
    if not files:
        yield full_rows(Models(shape), rows, length, bf16, compiled)
    elif tokenizer is None:
        raise UsageError("texts need a tokenizer. Give one with --tokenizer.")
    else:
        yield typical_documents(Models(shape), files, tokenizer, rows, length, bf16, compiled)


def typical_batch(files: Sequence[str], tokenizer: str, length: int, rows: int) -> Batch:
    """Choose one of a training run's first batches: the one whose share of padding is nearest to that of all.

    Every turn uses this batch, so that differences between batches do not affect the rates.

    Args:
        files: files or folders of texts.
        tokenizer: directory, repository or SentencePiece model.
        length: tokens per row; longer documents are split.
        rows: rows per batch.
    """
    batches = []
    for batch in islice(batch_stream(files, tokenizer, length, rows).batches(), _SAMPLED_BATCHES):
        lengths = batch["info"].lengths.tolist()
        batches.append(Batch(batch["input_ids"][0].split(lengths), batch["labels"][0].split(lengths)))
    tokens = [sum(batch.lengths) for batch in batches]
    sizes = [[batch.padded_size(DOCUMENTS_AT_ONCE, is_sorted) for is_sorted in (False, True)] for batch in batches]
    overall = [sum(column) / sum(tokens) for column in zip(*sizes, strict=True)]

    def distance(index: int) -> float:
        return max(abs(size / tokens[index] / ratio - 1) for size, ratio in zip(sizes[index], overall, strict=True))

    return batches[min(range(len(batches)), key=distance)]


def full_rows(models: Models, rows: int, length: int, bf16: bool, compiled: bool) -> Case:
    """Rows of `length` random tokens without padding, 30 % of them predicted."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(FIRST_WORD, models.config.vocab_size, (rows, length), generator=generator)
    labels = ids.where(torch.rand(rows, length, generator=generator) < MASKED, -100)
    settings = {"rows": rows, "row": length}
    return training_case(f"{rows} × {length} full", models, Batch(list(ids), list(labels)), settings, bf16, compiled)


def typical_documents(
    models: Models, files: Sequence[str], tokenizer: str, rows: int, length: int, bf16: bool, compiled: bool
) -> Case:
    """The typical batch of the files; see `typical_batch` and `training_case` for the arguments."""
    batch = typical_batch(files, tokenizer, length, rows)
    return real_documents(models, batch, rows, length, bf16, compiled)


def real_documents(models: Models, batch: Batch, rows: int, length: int, bf16: bool, compiled: bool) -> Case:
    """Real documents, which this library packs into `rows` rows of `length` tokens and the peer pads."""
    settings = {"rows": rows, "row": length, "documents": len(batch.ids)}
    is_sorted = len(batch.ids) > DOCUMENTS_AT_ONCE
    name = f"{rows} × {length} of real documents"
    return training_case(name, models, batch, settings, bf16, compiled, is_sorted=is_sorted)


def training_case(
    name: str,
    models: Models,
    batch: Batch,
    settings: Mapping[str, Any],
    bf16: bool,
    compiled: bool,
    *,
    documents_at_once: int = DOCUMENTS_AT_ONCE,
    is_sorted: bool = False,
) -> Case:
    """Training steps of all models on one batch.

    Args:
        name: description of the batch.
        models: models to compare.
        batch: documents of every step.
        settings: settings to report.
        bf16: whether to autocast to bfloat16.
        compiled: whether compiled layers are a candidate.
        documents_at_once: documents per padded batch of the peer.
        is_sorted: whether the peer with documents sorted by length is a candidate.
    """
    dtype = "bfloat16 autocast" if bf16 else "float32"
    optimizers: dict[nn.Parameter, torch.optim.Optimizer] = {}

    def step(model: Any, parts: Sequence[dict[str, Any]], predicted: int) -> None:
        # Models that share weights share an optimizer.
        weight = next(model.parameters())
        if weight not in optimizers:
            optimizers[weight] = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        items = torch.tensor(predicted, device=models.device)
        for part in parts:
            inputs = {key: value.to(models.device) if torch.is_tensor(value) else value for key, value in part.items()}
            with torch.autocast(models.device, dtype=torch.bfloat16, enabled=bf16):
                loss = model(**inputs, num_items_in_batch=items).loss
            loss.backward()
        optimizers[weight].step()
        optimizers[weight].zero_grad()

    def candidate(model: Any, parts: Callable[[Batch], list[dict[str, Any]]], **options: bool) -> Candidate:
        def run(turn: int) -> float:
            for option, value in options.items():
                setattr(model, option, value)
            used = batch if turn else _warm_up(batch)
            step(model.train(), parts(used), used.predicted)
            return float(sum(used.lengths))

        return run

    def padded(is_sorted: bool) -> Callable[[Batch], list[dict[str, Any]]]:
        return lambda used: used.padded(documents_at_once, is_sorted, models.config.pad_token_id)

    tokens = sum(batch.lengths)
    padding = {"padding": 1 - tokens / batch.padded_size(documents_at_once, False)}
    # One model for all of the peer's candidates, since it is large with its optimizer.
    peer = models.peer(torch.float32)
    candidates = {
        PEER: candidate(peer, padded(False), sparse_prediction=False),
        SPARSE: candidate(peer, padded(False), sparse_prediction=True),
    }
    if is_sorted:
        candidates[SORTED] = candidate(peer, padded(True), sparse_prediction=True)
        padding["padding, sorted"] = 1 - tokens / batch.padded_size(documents_at_once, True)
    for ours, model in models.candidates(torch.float32, compiled).items():
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


def _warm_up(batch: Batch) -> Batch:
    """The first tokens of the two longest documents."""
    longest = sorted(range(len(batch.ids)), key=lambda index: -len(batch.ids[index]))[:2]
    ids, labels = ([part[index][:_WARM_UP_TOKENS] for index in longest] for part in (batch.ids, batch.labels))
    return Batch(ids, labels)
