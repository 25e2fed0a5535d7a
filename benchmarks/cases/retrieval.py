"""Training steps of an embedder (forward and backward) in sentence-transformers, against transformers' ModernBERT.

All candidates compute MultipleNegativesRankingLoss on the same pairs of queries and passages with equal weights. The
peer reads them in random order and, its fastest way, in batches of similar lengths. With a budget of tokens at a time,
the peer uses the cached loss, with the rows of a batch in order and sorted by length; this library computes a batch in
pieces of the same budget.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from torch import nn

from llm_jp_modernbert import LlmJpModernBertConfig, LlmJpModernBertModel
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.auto import registered_for_modernbert
from llm_jp_modernbert.tokenization import train_stand_in
from llm_jp_modernbert.training.retrieval.kinds import RetrievalKind
from llm_jp_modernbert.training.retrieval.options import EmbedderOptions
from llm_jp_modernbert.training.retrieval.registry import kind_of

from ..measure import OURS, Candidate, Case
from ..models import FIRST_WORD, Dtype, Models, Shape

PEER, SORTED = "transformers, random batches", "transformers, batches of similar lengths"
CACHED, CACHED_SORTED = "transformers, cached loss", "transformers, cached loss, rows sorted by length"

_QUERY_TOKENS = (10, 40)

# Token ids of a query and its passage.
Pair = tuple[list[int], list[int]]


def cases(
    shape: Shape = "base",
    dtype: Dtype = "bfloat16",
    layers: Annotated[int | None, typer.Option(help="Layers of the encoder; by default all.", min=1)] = None,
    pairs: Annotated[int, typer.Option(help="Pairs of an epoch.", min=2)] = 32,
    batch: Annotated[int, typer.Option(help="Pairs per batch.", min=2)] = 16,
    shortest: Annotated[int, typer.Option(help="Tokens of the shortest passage.", min=2)] = 50,
    longest: Annotated[int, typer.Option(help="Tokens of the longest passage.", min=2, max=8192)] = 1000,
    budget: Annotated[
        int | None, typer.Option(help="Maximum tokens at a time; by default only without such a limit.", min=1)
    ] = None,
) -> Iterator[Case]:
    """Measure training tokens/s of an embedder on pairs of realistic lengths, against transformers with padding."""
    if shortest > longest:
        raise UsageError(f"--shortest {shortest}: more than --longest {longest}.")
    models = Models(shape, layers=layers)
    drawn = realistic_pairs(models.config.vocab_size, pairs, shortest, longest)
    yield epoch_case(models, dtype, drawn, batch, budget)


def realistic_pairs(vocabulary: int, count: int, shortest: int, longest: int) -> list[Pair]:
    """Random ids; the lengths of passages have a lognormal distribution."""
    drawn = random.Random(0)
    middle, spread = (math.log(shortest) + math.log(longest)) / 2, (math.log(longest) - math.log(shortest)) / 4

    def ids(length: int) -> list[int]:
        return [drawn.randrange(FIRST_WORD, vocabulary) for _ in range(length)]

    lengths = (round(drawn.lognormvariate(middle, spread)) for _ in range(count))
    return [(ids(drawn.randint(*_QUERY_TOKENS)), ids(min(max(length, shortest), longest))) for length in lengths]


def epoch_case(models: Models, dtype: str, pairs: Sequence[Pair], size: int, budget: int | None) -> Case:
    """Forward and backward passes over all pairs, in batches of `size`."""
    kind = kind_of(EmbedderOptions("", loss="cached-mnrl"))
    from sentence_transformers.sentence_transformer import losses

    ours, peer = sentence_transformers(models, kind)
    by_length = sorted(pairs, key=lambda pair: -len(pair[1]))
    tokens = float(sum(len(query) + len(passage) for query, passage in pairs))
    is_bf16 = dtype == "bfloat16"

    def candidate(model: Any, loss: nn.Module, rows: Sequence[Pair], sort: bool = False) -> Candidate:
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]

        def run(turn: int) -> float:
            for batch in batches if turn else batches[:1]:
                ordered = sorted(batch, key=lambda pair: -len(pair[1])) if sort else batch
                features = [_padded(column, models.device) for column in zip(*ordered, strict=True)]
                with torch.autocast(models.device, dtype=torch.bfloat16) if is_bf16 else nullcontext():
                    value = loss(features, None)
                value.backward()
                model.zero_grad()
            return tokens

        return run

    candidates = {OURS: candidate(ours, kind.loss(ours, "pairs", budget or round(tokens)), pairs)}
    if budget is None:
        plain = losses.MultipleNegativesRankingLoss(peer)
        candidates = {PEER: candidate(peer, plain, pairs), SORTED: candidate(peer, plain, by_length), **candidates}
    else:
        cached = losses.CachedMultipleNegativesRankingLoss(peer, mini_batch_num_tokens=budget)
        candidates = {
            CACHED: candidate(peer, cached, pairs),
            CACHED_SORTED: candidate(peer, cached, pairs, sort=True),
            **candidates,
        }
    padded = sum(
        size * max(len(pair[1]) for pair in pairs[start : start + size]) for start in range(0, len(pairs), size)
    )
    settings = {
        **models.settings,
        "dtype": f"{dtype} autocast" if is_bf16 else dtype,
        "pairs": len(pairs),
        "batch": size,
        "tokens": round(tokens),
        "longest": len(by_length[0][1]),
        "padding of passages": f"{1 - sum(len(passage) for _, passage in pairs) / padded:.0%}",
        "budget": budget or "none",
    }
    name = f"training an embedder on pairs, {'pieces of ' + str(budget) if budget else 'batches at once'}, {dtype}"
    return Case(name, "tokens", CACHED if budget else PEER, candidates, settings)


def sentence_transformers(models: Models, kind: RetrievalKind) -> tuple[Any, Any]:
    """This library's encoder and transformers' in a SentenceTransformer, with the same weights, in training mode."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    with TemporaryDirectory() as folder:
        tokenizer = train_stand_in(
            [
                "今日のご飯はカレーである。",
                "明日の朝は早く起きて、駅まで歩いて行きます。",
                "吾輩は猫である。名前はまだ無い。",
            ]
            * 20,
            vocab_size=305,
        )
        tokenizer.save_pretrained(folder)
        small = LlmJpModernBertConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1
        )
        LlmJpModernBertModel(small).save_pretrained(Path(folder), format="plain")
        with registered_for_modernbert():
            ours = Transformer(folder)
        peer = Transformer(folder)
    # Loading the large models from files would take longer than the measurements.
    ours.model, peer.model = models.ours("float32").model, models.peer("float32").model
    width = models.config.hidden_size
    return (
        kind.model_class(modules=[ours, Pooling(width)], device=models.device).train(),
        SentenceTransformer(modules=[peer, Pooling(width)], device=models.device).train(),
    )


def _padded(rows: Sequence[list[int]], device: str) -> dict[str, Any]:
    ids = [torch.tensor(row) for row in rows]
    masks = [torch.ones_like(row) for row in ids]
    stack: Any = nn.utils.rnn.pad_sequence
    return {
        "input_ids": stack(ids, batch_first=True).to(device),
        "attention_mask": stack(masks, batch_first=True).to(device),
        "modality": "text",
    }
