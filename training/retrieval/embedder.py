"""Embedders: one vector for each text."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
)
from sentence_transformers.sentence_transformer import losses, modules
from sentence_transformers.util import pairwise_cos_sim
from torch import Tensor, nn

from llm_jp_modernbert.core.errors import UsageError

from .dataset import Example, Form
from .kinds import RetrievalKind
from .packed import InPieces, OneForward

if TYPE_CHECKING:
    from ..finetuning.finetune.base import Base

SCALE = 20.0
"""Factor of cosine similarities in all losses, the default of sentence-transformers."""

_DROPOUT = 0.1


class PackedSentenceTransformer(InPieces, SentenceTransformer):
    """A `SentenceTransformer` that computes batches in pieces."""

    outputs = ("sentence_embedding",)


class Embedder(RetrievalKind):
    """`train-embedder`."""

    model_class = PackedSentenceTransformer
    trainer_class = SentenceTransformerTrainer
    losses_by_form = MappingProxyType(
        {
            "pairs": ("cached-mnrl",),
            "triplets": ("cached-mnrl",),
            "scored": ("cosent",),
            "distillation": ("kl-divergence", "margin-mse"),
            "texts": ("cached-mnrl",),
        }
    )

    def build(self, base: Base, seed: int, form: Form) -> Any:
        """See `RetrievalKind.build`. For texts alone, dropout makes the two embeddings of a text differ."""

        def new(transformer: Any) -> list[nn.Module]:
            encoder = transformer("feature-extraction")
            return [encoder, modules.Pooling(encoder.get_embedding_dimension(), pooling_mode=self.options.pooling)]

        model = self.load(base, new, seed, prompts=self.prompts(form), similarity_fn_name="cosine")
        width = model.get_embedding_dimension()
        if too_long := [length for length in self.options.matryoshka if length > width]:
            raise UsageError(f"--matryoshka {too_long[0]}: embeddings of {base.name} have {width} dimensions.")
        if form == "texts":
            # The configuration, which is saved, stays the same.
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = _DROPOUT
        return model

    def loss(self, model: Any, form: Form, tokens_per_batch: int) -> nn.Module:
        """See `RetrievalKind.loss`."""
        model.tokens_per_batch = tokens_per_batch
        name = self.loss_name(form)
        loss = OneForward(model, _LOSSES[name](model))
        if not self.options.matryoshka:
            return loss
        width = model.get_embedding_dimension()
        return losses.MatryoshkaLoss(model, loss, sorted({width, *self.options.matryoshka}, reverse=True))

    def columns(self, examples: Sequence[Example], form: Form) -> Dataset:
        """See `RetrievalKind.columns`."""
        return text_columns(examples, form, self.prompts(form), self.loss_name(form))


def text_columns(examples: Sequence[Example], form: Form, prompts: dict[str, str], loss: str) -> Dataset:
    """Columns of texts with prompts: the query, the passages and the scores, if any.

    Args:
        examples: examples with the same number of passages.
        form: form of the examples.
        prompts: prefix of `query` and `document`.
        loss: name of the loss, for messages.

    Raises:
        UsageError: examples have different numbers of passages, or fewer than two for distillation.
    """
    query, document = prompts["query"], prompts["document"]
    if form == "texts":
        return Dataset.from_dict(
            {
                "text": [query + example.query for example in examples],
                "same_text": [document + example.query for example in examples],
            }
        )
    counts = sorted({len(example.passages) for example in examples})
    if len(counts) != 1:
        raise UsageError(f"--train: examples have {counts[0]} to {counts[-1]} passages. Give each the same number.")
    if form == "distillation" and counts[0] < 2:
        raise UsageError(
            f"--loss {loss}: compares passages of a query, but examples have only one. "
            "Give negatives, or mine them with --mine-negatives."
        )
    columns: dict[str, list[Any]] = {"query": [query + example.query for example in examples]}
    names = ["passage", *(f"negative_{number}" for number in range(1, counts[0]))]
    for place, name in enumerate(names):
        columns[name] = [document + example.passages[place] for example in examples]
    if form == "scored":
        columns["score"] = [example.scores[0] for example in examples]
    if form == "distillation":
        columns["score"] = [list(example.scores) for example in examples]
    return Dataset.from_dict(columns)


def scaled_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine similarities of pairs, `(rows,)`, with the scale that the other losses give them."""
    return SCALE * pairwise_cos_sim(first, second)


_LOSSES: dict[str, Any] = {
    # Its cached variant computes in pieces too, but always twice; `InPieces` does so only if it must.
    "cached-mnrl": lambda model: losses.MultipleNegativesRankingLoss(model, scale=SCALE),
    "cosent": lambda model: losses.CoSENTLoss(model, scale=SCALE),
    "margin-mse": lambda model: losses.MarginMSELoss(model, similarity_fct=scaled_cosine),
    "kl-divergence": lambda model: losses.DistillKLDivLoss(model, similarity_fct=scaled_cosine),
}
