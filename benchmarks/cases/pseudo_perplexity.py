"""Tokens per second of pseudo-perplexity, against the plain way of computing it.

The plain way: transformers' ModernBERT reads one padded row for each masked copy, and gives logits of the whole
vocabulary at every token. Both have the same weights, documents and masked positions; a token counts each time it is
read. Documents of different lengths share the peer's batches, as they come.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from typing import Annotated

import torch
import typer
from torch import nn
from transformers import ModernBertForMaskedLM, PreTrainedTokenizerBase

from llm_jp_modernbert.evaluation.tasks.pseudo_perplexity import Target, cross_entropies
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.data.readers import find_files, read_in_turn

from ..measure import OURS, Case, report
from ..models import Models
from ..options import Dtype, Out, Repeats, Shape

PEER = "transformers, padded copies, full logits"


def benchmark(
    files: Annotated[list[str], typer.Argument(help="Texts.")],
    tokenizer: Annotated[str, typer.Option()],
    shape: Shape = "nano",
    length: Annotated[int, typer.Option(help="Tokens of a document at most.", min=4)] = 1024,
    documents: Annotated[int, typer.Option(min=1)] = 8,
    positions: Annotated[int, typer.Option(help="Masked positions of a document.", min=1)] = 4,
    batch_size: Annotated[int, typer.Option(help="Rows of the peer's batch.", min=1)] = 8,
    dtype: Dtype = "float32",
    repeats: Repeats = 5,
    out: Out = None,
) -> None:
    """Pseudo-perplexity tokens per second, against padded copies with full logits."""
    vocabulary = load_tokenizer(tokenizer)
    models, kind = Models(shape, len(vocabulary)), getattr(torch, dtype)
    ours, peer = models.ours(kind), models.peer(kind)
    targets = _targets(files, vocabulary, length, documents, positions)
    tokens = float(sum(len(target.row) for target in targets))
    settings = {
        **models.settings,
        "lengths": sorted({len(target.row) for target in targets}),
        "positions": positions,
        "batch_size": batch_size,
        "dtype": dtype,
    }
    budget = batch_size * length

    def packed() -> list[float]:
        return cross_entropies(ours, vocabulary, targets, budget)

    def plain() -> list[float]:
        return _plain(peer, vocabulary.pad_token_id, vocabulary.mask_token_id, targets, batch_size)

    settings["greatest difference"] = max(abs(a - b) for a, b in zip(packed(), plain(), strict=True))
    candidates: dict[str, Callable[[int], float]] = {
        PEER: lambda turn: tokens * bool(plain()),
        OURS: lambda turn: tokens * bool(packed()),
    }
    report(Case("pseudo-perplexity", "tokens", PEER, candidates, settings), repeats, out)


def _targets(
    files: list[str], tokenizer: PreTrainedTokenizerBase, length: int, documents: int, positions: int
) -> list[Target]:
    drawn = random.Random(0)
    targets = []
    for document in islice(read_in_turn(find_files(files)), documents):
        row = tokenizer(document.text, truncation=True, max_length=length)["input_ids"]
        places = drawn.sample(range(1, len(row) - 1), min(positions, len(row) - 2))
        targets += [Target(row, place) for place in places]
    return targets


def _plain(model: ModernBertForMaskedLM, pad: int, mask: int, targets: list[Target], batch_size: int) -> list[float]:
    losses: list[float] = []
    for first in range(0, len(targets), batch_size):
        batch = targets[first : first + batch_size]
        rows = [torch.tensor(target.row) for target in batch]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        real = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        places = torch.tensor([target.position for target in batch])
        every = torch.arange(len(batch))
        wanted = ids[every, places]
        ids[every, places] = mask
        with torch.inference_mode():
            logits = model(input_ids=ids.to(model.device), attention_mask=real.to(model.device)).logits
        found = logits[every, places].float()
        losses += nn.functional.cross_entropy(found, wanted.to(model.device), reduction="none").tolist()
    return losses
