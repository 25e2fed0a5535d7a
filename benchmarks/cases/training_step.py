"""Tokens per second of a training step, against transformers' ModernBERT with padding.

A step is forward, backward and AdamW on the same documents with the same masks and weights. Ours reads them packed;
the peer gets them padded, so many at a time, as it comes and with its option `sparse_prediction`, in random order and
sorted by length, which is its best. Only real tokens count. Full rows, of which all have the same length, show what is
left where there is no padding to be saved.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import torch
import typer
from torch import nn

from llm_jp_modernbert.modeling.flops import training_flops

from ..measure import COMPILED, OURS, Case, report
from ..models import FIRST_WORD, Models
from ..options import Out, Repeats, Shape
from ..texts import stream_of

PEER = "transformers, padded"
SPARSE = "transformers, padded, sparse_prediction"
SORTED = "transformers, sorted by length, sparse_prediction"

MASKED = 0.3
"""The share of tokens that is predicted where ids are drawn at random."""
# Steps of one model follow one another: the first after another model's is not what those of a run are like.
_IN_A_ROW = 2
# Batches among which a typical one is chosen.
_AMONG = 32
# Tokens of each of the two documents that warm up.
_SHORT = 128

RECTANGLE = 4
"""Documents that the peer reads at once."""


@dataclass(frozen=True)
class Batch:
    """Documents of an optimizer step.

    Attributes:
        ids: `(tokens,)` of each document.
        labels: `(tokens,)` of each document, -100 where nothing is predicted.
    """

    ids: Sequence[torch.Tensor]
    labels: Sequence[torch.Tensor]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each document."""
        return [len(document) for document in self.ids]

    @property
    def predicted(self) -> int:
        """Tokens to be predicted."""
        return sum(int((labels != -100).sum()) for labels in self.labels)

    def packed(self) -> dict[str, Any]:
        """One packed row."""
        boundaries = torch.tensor([0, *self.lengths]).cumsum(0).int()
        row = {"input_ids": torch.cat(list(self.ids))[None], "labels": torch.cat(list(self.labels))[None]}
        return {**row, "cu_seqlens": boundaries, "max_seqlen": max(self.lengths)}

    def padded(self, rows: int, is_sorted: bool, pad: int) -> list[dict[str, Any]]:
        """Rectangles of so many documents, in an order drawn at random or by length."""
        return [self._rectangle(chosen, pad) for chosen in self._groups(rows, is_sorted)]

    def cells(self, rows: int, is_sorted: bool) -> int:
        """Tokens of those rectangles, with their padding."""
        lengths = self.lengths
        return sum(len(chosen) * max(lengths[index] for index in chosen) for chosen in self._groups(rows, is_sorted))

    def short(self, tokens: int) -> Batch:
        """The beginnings of the two longest documents."""
        chosen = sorted(range(len(self.ids)), key=lambda index: -len(self.ids[index]))[:2]
        return Batch([self.ids[index][:tokens] for index in chosen], [self.labels[index][:tokens] for index in chosen])

    def _groups(self, rows: int, is_sorted: bool) -> list[list[int]]:
        order = list(range(len(self.ids)))
        random.Random(0).shuffle(order)
        if is_sorted:
            order.sort(key=lambda index: len(self.ids[index]))
        return [order[first : first + rows] for first in range(0, len(order), rows)]

    def _rectangle(self, chosen: Sequence[int], pad: int) -> dict[str, Any]:
        def filled(parts: Sequence[torch.Tensor], value: int) -> torch.Tensor:
            return nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=value)

        return {
            "input_ids": filled([self.ids[index] for index in chosen], pad),
            "attention_mask": filled([torch.ones_like(self.ids[index]) for index in chosen], 0),
            "labels": filled([self.labels[index] for index in chosen], -100),
        }


def benchmark(
    files: Annotated[list[str] | None, typer.Argument(help="Texts; without any, rows are full of random ids.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="For the texts.")] = None,
    shape: Shape = "small",
    length: Annotated[int, typer.Option(help="Tokens of a row.", min=4)] = 1024,
    rows: Annotated[int, typer.Option(help="Rows of a batch.", min=1)] = 4,
    bf16: Annotated[bool, typer.Option("--bf16", help="Autocast.")] = False,
    compiled: Annotated[bool, typer.Option(help="Whether to time compiled layers as well.")] = True,
    repeats: Repeats = 5,
    out: Out = None,
) -> None:
    """Training tokens per second, on real documents or full rows, against transformers with padding."""
    if not files:
        case = full_rows(Models(shape), rows, length, bf16, compiled)
    elif tokenizer is None:
        raise typer.BadParameter("texts need --tokenizer.")
    else:
        batch = typical_batch(files, tokenizer, length, rows)
        case = real_documents(Models(shape), batch, rows, length, bf16, compiled)
    report(case, repeats, out)


def typical_batch(files: Sequence[str], tokenizer: str, length: int, rows: int) -> Batch:
    """Of a training run's first batches the one that pads most nearly as they do together, unsorted and sorted.

    Every turn takes the same documents: what batches differ by is no matter of speed.

    Args:
        files: texts.
        tokenizer: as for a recipe.
        length: tokens at which documents are cut, and of a row.
        rows: rows of a batch.
    """
    found = []
    for batch in islice(stream_of(files, tokenizer, length, rows).batches(), _AMONG):
        lengths = batch["info"].lengths.tolist()
        found.append(Batch(batch["input_ids"][0].split(lengths), batch["labels"][0].split(lengths)))
    cells = [[batch.cells(RECTANGLE, is_sorted) for is_sorted in (False, True)] for batch in found]
    tokens = [sum(batch.lengths) for batch in found]
    together = [sum(column) / sum(tokens) for column in zip(*cells, strict=True)]

    def distance(index: int) -> float:
        return max(abs(own / tokens[index] / all_ - 1) for own, all_ in zip(cells[index], together, strict=True))

    return found[min(range(len(found)), key=distance)]


def full_rows(models: Models, rows: int, length: int, bf16: bool, compiled: bool) -> Case:
    """Rows of one length, 30 % of whose tokens are predicted.

    Args:
        models: to be compared.
        rows: of a batch.
        length: tokens of each.
        bf16: whether matrix products are autocast to bfloat16.
        compiled: whether this library's compiled layers are a candidate.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(FIRST_WORD, models.config.vocab_size, (rows, length), generator=generator)
    labels = ids.where(torch.rand(rows, length, generator=generator) < MASKED, -100)
    run = Steps(models, Batch(list(ids), list(labels)), bf16)
    candidates = {PEER: run.peer(sparse=False), SPARSE: run.peer(sparse=True), **run.ours(compiled)}
    name = f"training step, {rows} × {length} full, {run.dtype}"
    return run.case(name, candidates, {"rows": rows, "row": length})


def real_documents(models: Models, batch: Batch, rows: int, length: int, bf16: bool, compiled: bool) -> Case:
    """Real documents, packed here and padded there.

    Args:
        models: to be compared.
        batch: of a step.
        rows: that it is packed into.
        length: tokens of a row, at which documents were cut.
        bf16: whether matrix products are autocast to bfloat16.
        compiled: whether this library's compiled layers are a candidate.
    """
    run = Steps(models, batch, bf16)
    candidates = {PEER: run.peer(sparse=False), SPARSE: run.peer(sparse=True)}
    if len(batch.ids) > RECTANGLE:
        candidates[SORTED] = run.peer(sparse=True, is_sorted=True)
    candidates |= run.ours(compiled)
    name = f"training step, {rows} × {length} of real documents, {run.dtype}"
    return run.case(name, candidates, {"rows": rows, "row": length, "documents": len(batch.ids)})


class Steps:
    """Training steps of several models on the same batch; a part of it warms up.

    Args:
        models: to be compared.
        batch: of each step.
        bf16: whether matrix products are autocast to bfloat16.
        rectangle: documents that the peer reads at once.
    """

    def __init__(self, models: Models, batch: Batch, bf16: bool, rectangle: int = RECTANGLE) -> None:
        self.models, self.batch, self.bf16, self.rectangle = models, batch, bf16, rectangle
        self.dtype = "bfloat16 autocast" if bf16 else "float32"
        self._optimizers: dict[nn.Parameter, torch.optim.Optimizer] = {}

    def ours(self, compiled: bool) -> dict[str, Callable[[int], float]]:
        """This library's candidates."""
        found = {OURS: self._candidate(self.models.ours(torch.float32), lambda batch: [batch.packed()])}
        if compiled:
            found[COMPILED] = self._candidate(self.models.compiled(torch.float32), lambda batch: [batch.packed()])
        return found

    def peer(self, sparse: bool, is_sorted: bool = False) -> Callable[[int], float]:
        """Transformers' model: one for all of its candidates, since it is large with its optimizer."""
        model = self.models.peer(torch.float32)
        pad = self.models.config.pad_token_id
        step = self._candidate(model, lambda batch: batch.padded(self.rectangle, is_sorted, pad))

        def run(turn: int) -> float:
            model.sparse_prediction = sparse
            return step(turn)

        return run

    def case(self, name: str, candidates: dict[str, Callable[[int], float]], settings: dict[str, Any]) -> Case:
        """The case of these candidates."""
        batch = self.batch
        tokens = sum(batch.lengths)
        operations = training_flops(self.models.config, batch.lengths, batch.predicted)
        padding = {"padding": 1 - tokens / batch.cells(self.rectangle, False)}
        if SORTED in candidates:
            padding["padding, sorted"] = 1 - tokens / batch.cells(self.rectangle, True)
        shares = {name: f"{share:.0%}" for name, share in padding.items()}
        settings = {**self.models.settings, "dtype": self.dtype, **settings, "predicted": batch.predicted, **shares}
        settings["steps in a row"] = _IN_A_ROW
        counted = {OURS: operations / tokens}
        return Case(name, "tokens", PEER, candidates, settings, counted, memory=True, in_a_row=_IN_A_ROW)

    def _candidate(self, model: Any, parts: Callable[[Batch], list[dict[str, Any]]]) -> Callable[[int], float]:
        def run(turn: int) -> float:
            batch = self.batch if turn else self.batch.short(_SHORT)
            self._step(model.train(), parts(batch), batch.predicted)
            return float(sum(batch.lengths))

        return run

    def _step(self, model: Any, parts: Sequence[dict[str, Any]], predicted: int) -> None:
        # One for all models with the same weights.
        weight = next(model.parameters())
        if weight not in self._optimizers:
            self._optimizers[weight] = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        optimizer, device = self._optimizers[weight], self.models.device
        items = torch.tensor(predicted, device=device)
        for part in parts:
            moved = {name: value.to(device) if torch.is_tensor(value) else value for name, value in part.items()}
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self.bf16):
                loss = model(**moved, num_items_in_batch=items).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
