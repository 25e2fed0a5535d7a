"""Sparse models (SPLADE, arXiv 2109.10086): a weight for each token of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from sentence_transformers import SparseEncoderTrainer
from sentence_transformers.sparse_encoder import losses
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch import nn

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.heads import MASKED_LM
from llm_jp_modernbert.inference.retrieval.splade import SpladeEncoder

from .dataset import Example, Form
from .embedder import text_columns
from .kinds import RetrievalKind
from .packed import InPieces

if TYPE_CHECKING:
    from ..finetuning.finetune.base import Base


class PackedSparseEncoder(InPieces, SpladeEncoder):
    """A `SparseEncoder` that computes batches in pieces."""

    outputs = ("sentence_embedding",)
    # Queries and passages, which have regularizers of their own.
    calls_per_step = 2


class Sparse(RetrievalKind):
    """`train-sparse`."""

    model_class = PackedSparseEncoder
    trainer_class = SparseEncoderTrainer
    losses_by_form = MappingProxyType(
        {
            "pairs": ("mnrl",),
            "triplets": ("mnrl",),
            "scored": ("cosent",),
            "distillation": ("margin-mse", "kl-divergence"),
        }
    )

    def build(self, base: Base, seed: int, form: Form) -> Any:
        """See `RetrievalKind.build`; the weights come from the masked-language-model head.

        Raises:
            UsageError: the base has no such head.
        """
        architectures = getattr(base.config, "architectures", None) or [""]
        if not architectures[0].endswith(MASKED_LM.suffix):
            raise UsageError(
                f"{base.reference}: a sparse model needs a {MASKED_LM.name}, but this is a {architectures[0]}. "
                "Start from a pre-trained checkpoint."
            )

        def new(transformer: Any) -> list[nn.Module]:
            encoder = transformer("fill-mask")
            return [encoder, SpladePooling("max", embedding_dimension=encoder.model.config.vocab_size)]

        return self.load(base, new, seed, prompts=self.prompts(form), similarity_fn_name="dot")

    def loss(self, model: Any, form: Form, tokens_per_batch: int) -> nn.Module:
        """See `RetrievalKind.loss`."""
        model.tokens_per_batch = tokens_per_batch
        return losses.SpladeLoss(
            model,
            _LOSSES[self.loss_name(form)](model),
            document_regularizer_weight=self.options.passage_regularizer,
            query_regularizer_weight=self.options.query_regularizer,
        )

    def columns(self, examples: Sequence[Example], form: Form) -> Dataset:
        """See `RetrievalKind.columns`."""
        return text_columns(examples, form, self.prompts(form), self.loss_name(form))


_LOSSES: dict[str, Any] = {
    "mnrl": losses.SparseMultipleNegativesRankingLoss,
    "cosent": losses.SparseCoSENTLoss,
    "margin-mse": losses.SparseMarginMSELoss,
    "kl-divergence": losses.SparseDistillKLDivLoss,
}
