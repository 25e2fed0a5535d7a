"""Late interaction (ColBERT, arXiv 2004.12832): a vector for each token of a text."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from sentence_transformers import (
    MultiVectorEncoder,
    MultiVectorEncoderTrainer,
)
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.multi_vector_encoder import losses
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import nn

from .dataset import Example, Form
from .embedder import text_columns
from .kinds import RetrievalKind
from .packed import InPieces

if TYPE_CHECKING:
    from ..finetuning.finetune.base import Base


class PackedMultiVectorEncoder(InPieces, MultiVectorEncoder):
    """A `MultiVectorEncoder` that computes batches in pieces."""

    outputs = ("token_embeddings", "attention_mask")
    # Queries and passages, whose masks may differ.
    calls_per_step = 2


class LateInteraction(RetrievalKind):
    """`train-late-interaction`."""

    model_class = PackedMultiVectorEncoder
    trainer_class = MultiVectorEncoderTrainer
    losses_by_form = MappingProxyType(
        {
            "pairs": ("cached-mnrl",),
            "triplets": ("cached-mnrl",),
            "distillation": ("kl-divergence", "margin-mse"),
        }
    )

    def build(self, base: Base, seed: int, form: Form) -> Any:
        """See `RetrievalKind.build`."""

        def new(transformer: Any) -> list[nn.Module]:
            encoder = transformer("feature-extraction")
            width, vector = encoder.get_embedding_dimension(), "token_embeddings"
            projection = Dense(
                width,
                self.options.dimensions,
                bias=False,
                activation_function=nn.Identity(),
                module_input_name=vector,
            )
            return [encoder, projection, MultiVectorMask(), Normalize(module_input_name=vector)]

        return self.load(base, new, seed, prompts=self.prompts(form))

    def loss(self, model: Any, form: Form, tokens_per_batch: int) -> nn.Module:
        """See `RetrievalKind.loss`."""
        model.tokens_per_batch = tokens_per_batch
        loss: nn.Module = _LOSSES[self.loss_name(form)](model)
        return loss

    def columns(self, examples: Sequence[Example], form: Form) -> Dataset:
        """See `RetrievalKind.columns`."""
        return text_columns(examples, form, self.prompts(form), self.loss_name(form))


_LOSSES: dict[str, Any] = {
    # Its cached variant computes in pieces too, but always twice; `InPieces` does so only if it must.
    "cached-mnrl": losses.MultiVectorMultipleNegativesRankingLoss,
    "margin-mse": losses.MultiVectorMarginMSELoss,
    "kl-divergence": losses.MultiVectorDistillKLDivLoss,
}
