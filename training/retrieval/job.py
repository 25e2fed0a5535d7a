"""Everything that the training of a retrieval model works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.retrieval.bm25 import BM25
from llm_jp_modernbert.inference.retrieval.loading import load_retrieval_model
from llm_jp_modernbert.inference.retrieval.rankers import Ranker, Reranker, ranker_of

from ..finetuning.finetune.base import Base
from ..finetuning.finetune.folder import Folder
from ..finetuning.trainer import tokens_at_once
from .dataset import Part, RetrievalData
from .kinds import RetrievalKind
from .lengths import input_lengths
from .measuring import CANDIDATES, Benchmark, Remembered, Scores, benchmarks_of, measure
from .options import RerankerOptions, RetrievalOptions

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(frozen=True)
class Job:
    """A training of one or several seeds.

    Attributes:
        options: options of the command.
        kind: the type of model.
        base: the model to start from.
        data: the data.
        folder: its directory.
        arguments: arguments of the Trainer, with the first seed.
    """

    options: RetrievalOptions
    kind: RetrievalKind
    base: Base
    data: RetrievalData
    folder: Folder
    arguments: TrainingArguments

    @cached_property
    def benchmarks(self) -> Mapping[str, Benchmark]:
        """The measured parts of the data: `validation`, and `test` or `test:NAME`."""
        return benchmarks_of(self.data)

    @cached_property
    def parts(self) -> Mapping[str, Part]:
        """All parts of the data by name."""
        return {"train": self.data.train, **{name: benchmark.part for name, benchmark in self.benchmarks.items()}}

    @cached_property
    def lengths(self) -> Mapping[str, list[np.ndarray]]:
        """For each part, the tokens of the inputs of each example before truncation."""
        prompts, are_joined = self.kind.prompts(self.data.train.form), self.options.kind == "reranker"
        return {
            name: input_lengths(part, self.base.tokenizer, prompts, are_joined) for name, part in self.parts.items()
        }

    def too_long(self, part: str) -> list[str]:
        """Places of the examples with an input that is longer than the model reads, with its tokens."""
        return [
            f"{place} ({lengths.max():,} tokens)"
            for place, lengths in zip(self.parts[part].places, self.lengths[part], strict=True)
            if lengths.max() > self.base.max_length
        ]

    @property
    def metric(self) -> str:
        """Metric that selects epoch and seed."""
        return (self.arguments.metric_for_best_model or self.benchmarks["validation"].metric).removeprefix("eval_")

    @property
    def lower_is_better(self) -> bool:
        """Direction of `metric`."""
        if self.arguments.greater_is_better is None:
            return self.metric.endswith("loss")
        return not self.arguments.greater_is_better

    @property
    def tokens_per_batch(self) -> int:
        """Maximum tokens computed at once."""
        return self.options.tokens_per_batch or tokens_at_once(self.arguments.device)

    @cached_property
    def candidates(self) -> Remembered | None:
        """The ranker of the candidates that a reranker orders; None for other types of model.

        Raises:
            UsageError: it cannot be loaded, or is a reranker.
        """
        if not isinstance(self.options, RerankerOptions):
            return None
        if self.options.candidates == "bm25":
            return Remembered(BM25())
        model = load_retrieval_model(self.options.candidates, str(self.arguments.device))
        try:
            return Remembered(ranker_of(model, self.tokens_per_batch))
        except TypeError as error:
            raise UsageError(
                f"--candidates {self.options.candidates}: is a reranker. Name a model that searches, or bm25."
            ) from error

    def ranker(self, model: Any) -> Ranker:
        """The ranker of a model of this type."""
        if self.candidates is None:
            return ranker_of(model, self.tokens_per_batch)
        return Reranker(model, self.candidates, CANDIDATES, self.tokens_per_batch)

    def measure(self, model: Any, part: str = "validation") -> Scores:
        """Measures a model of this type on a part of the data."""
        return measure(self.benchmarks[part], model, self.ranker(model), self.tokens_per_batch)
