"""Rerankers: a score for each pair of query and passage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from sentence_transformers import CrossEncoder, CrossEncoderTrainer
from sentence_transformers.cross_encoder import losses
from torch import Tensor, nn

from .dataset import Example, Form
from .embedder import text_columns
from .kinds import RetrievalKind
from .packed import InPieces

if TYPE_CHECKING:
    from ..finetuning.finetune.base import Base

_NO_PROMPTS = MappingProxyType({"query": "", "document": ""})


class PackedCrossEncoder(InPieces, CrossEncoder):
    """A `CrossEncoder` that computes batches in pieces."""

    outputs = ("scores",)


class Reranker(RetrievalKind):
    """`train-reranker`."""

    model_class = PackedCrossEncoder
    trainer_class = CrossEncoderTrainer
    losses_by_form = MappingProxyType(
        {
            "pairs": ("cached-mnrl",),
            "triplets": ("binary-cross-entropy", "lambda", "cached-mnrl"),
            "scored": ("binary-cross-entropy", "mse"),
            "distillation": ("mse", "margin-mse"),
        }
    )

    def prompts(self, form: Form) -> dict[str, str]:
        """Rerankers have no prompts."""
        return dict(_NO_PROMPTS)

    def build(self, base: Base, seed: int, form: Form) -> Any:
        """See `RetrievalKind.build`."""
        labels = getattr(base.config, "num_labels", 1)
        # A classifier of other labels is replaced.
        weights = {"ignore_mismatched_sizes": True} if labels != 1 else {}
        return self.load(
            base, lambda transformer: [transformer("sequence-classification", weights, num_labels=1)], seed
        )

    def loss(self, model: Any, form: Form, tokens_per_batch: int) -> nn.Module:
        """See `RetrievalKind.loss`."""
        model.tokens_per_batch = tokens_per_batch
        loss: nn.Module = _LOSSES[self.loss_name(form)](model)
        return loss

    def columns(self, examples: Sequence[Example], form: Form) -> Dataset:
        """See `RetrievalKind.columns`: pairs with a label or score each, lists of passages, or one column for each."""
        name = self.loss_name(form)
        if name == "lambda":
            return Dataset.from_dict(
                {
                    "query": [example.query for example in examples],
                    "passages": [list(example.passages) for example in examples],
                    "label": [_labels(example) for example in examples],
                }
            )
        if name in ("binary-cross-entropy", "mse"):
            rows = [
                (example.query, passage, label)
                for example in examples
                for passage, label in zip(example.passages, example.scores or _labels(example), strict=True)
            ]
            query, passage, label = (list(column) for column in zip(*rows, strict=True))
            return Dataset.from_dict({"query": query, "passage": passage, "label": label})
        return text_columns(examples, form, self.prompts(form), name)


def _labels(example: Example) -> list[float]:
    return [1.0, *(0.0 for _ in example.passages[1:])]


class _InBatchNegatives(losses.MultipleNegativesRankingLoss):
    """The loss, with all pairs in one forward pass."""

    def forward(
        self, inputs: list[list[str]], labels: Tensor | None = None, prompt: str | None = None, task: str | None = None
    ) -> Tensor:
        anchors, positives, *negatives = inputs
        candidates = [positives, *self.get_in_batch_negatives(anchors, inputs[1:]), *negatives]
        passages = [passage for column in candidates for passage in column]
        scores: Any = [self.call_model_with_columns(anchors * len(candidates), passages, prompt, task)]
        return self.calculate_loss(scores, len(anchors))


class _MarginMSE(losses.MarginMSELoss):
    """The loss, with all pairs in one forward pass."""

    _parts: Iterator[Tensor]

    def forward(
        self, inputs: list[list[str]], labels: Any, prompt: str | None = None, task: str | None = None
    ) -> Tensor:
        anchors, *columns = inputs
        pairs = [pair for column in columns for pair in zip(anchors, column, strict=True)]
        self._parts = iter(super().logits_from_pairs(pairs, prompt, task).split(len(anchors)))
        return super().forward(inputs, labels, prompt, task)

    def logits_from_pairs(
        self, pairs: list[tuple[str, str]], prompt: str | None = None, task: str | None = None
    ) -> Tensor:
        return next(self._parts)


_LOSSES: dict[str, Any] = {
    "binary-cross-entropy": losses.BinaryCrossEntropyLoss,
    # Its cached variant computes in pieces too, but always twice; `InPieces` does so only if it must.
    "cached-mnrl": _InBatchNegatives,
    # A negative size is one forward pass for all pairs.
    "lambda": lambda model: losses.LambdaLoss(model, mini_batch_size=-1),
    "margin-mse": _MarginMSE,
    "mse": losses.MSELoss,
}
