"""Batches of fine-tuning: pieces of a token budget, packed without padding for this package's models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import DataCollatorWithPadding

from llm_jp_modernbert.inference.heads import MULTIPLE_CHOICE, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertPreTrainedModel

from .head_task import HeadTask, ModelInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Batches:
    """Makes tensors of inputs, and brings a model's outputs into the form of `HeadTask.predict`.

    Attributes:
        task: type of task.
        tokenizer: pads the batches of models that do not read packed ones.
        packed: whether the model reads packed rows.
        tokens_per_batch: maximum tokens of a piece, padding included; a longer input is a piece of its own.
    """

    task: HeadTask[Any]
    tokenizer: PreTrainedTokenizerBase
    packed: bool
    tokens_per_batch: int

    @classmethod
    def of(
        cls, model: torch.nn.Module, task: HeadTask[Any], tokenizer: PreTrainedTokenizerBase, tokens_per_batch: int
    ) -> Batches:
        """Batches for a model, which are packed if it reads packed rows."""
        packed = any(isinstance(module, LlmJpModernBertPreTrainedModel) for module in model.modules())
        return cls(task, tokenizer, packed, tokens_per_batch)

    def pieces(self, rows: Sequence[ModelInput]) -> list[list[int]]:
        """Divides inputs into pieces of similar lengths, given by their places; the longest come first."""
        sizes = [[len(document["input_ids"]) for document in documents(row)] for row in rows]
        pieces: list[list[int]] = []
        used = longest = 0
        for place in sorted(range(len(rows)), key=lambda place: -max(sizes[place])):
            if not pieces or used + self._cost(sizes[place], longest) > self.tokens_per_batch:
                pieces.append([])
                used, longest = 0, max(sizes[place])
            used += self._cost(sizes[place], longest)
            pieces[-1].append(place)
        return pieces

    def _cost(self, sizes: list[int], longest: int) -> int:
        return sum(sizes) if self.packed else len(sizes) * max(longest, *sizes)

    def inputs(self, rows: Sequence[ModelInput]) -> dict[str, Any]:
        """Keyword arguments of the model: one packed row, or padded rows."""
        parts = [document for row in rows for document in documents(row)]
        choices = self.task.head == MULTIPLE_CHOICE
        if not self.packed:
            padded = dict(DataCollatorWithPadding(self.tokenizer)(parts))
            return {key: value.unflatten(0, (len(rows), -1)) if choices else value for key, value in padded.items()}
        lengths = [len(document["input_ids"]) for document in parts]
        tokens = torch.tensor([token for document in parts for token in document["input_ids"]])
        return {
            # Multiple choice has an axis of choices.
            "input_ids": tokens[None, None] if choices else tokens[None],
            "cu_seqlens": torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32),
            "max_seqlen": max(lengths),
        }

    def logits(self, output: Any, inputs: dict[str, Any], rows: int) -> torch.Tensor:
        """`(rows, outputs)` logits of a piece, or `(tokens, outputs)` without padding if the task labels tokens."""
        values = torch.stack([output[name] for name in self.task.head.outputs], -1).squeeze(-1).float()
        if not labels_tokens(self.task):
            return values.reshape(rows, -1)
        values = values.flatten(0, 1)
        return values if self.packed else values[inputs["attention_mask"].flatten().bool()]


class StepSampler(Sampler[list[int]]):
    """Places of the examples in each batch of this rank.

    All ranks together read every example of an epoch once, in the order in which transformers' Trainer does with the
    same seed. At the end of an epoch, a rank may get an empty batch.

    Args:
        examples: number of examples.
        batch_size: examples per batch of a rank.
        seed: seed of the order; None for the given order.
        rank: this rank.
        ranks: number of ranks.
        drop_last: whether to leave out the last batches if they are not full.
        epoch: returns the current epoch.
    """

    def __init__(
        self,
        examples: int,
        batch_size: int,
        seed: int | None,
        rank: int,
        ranks: int,
        drop_last: bool,
        epoch: Callable[[], int],
    ) -> None:
        self.examples, self.size, self.seed, self.drop_last = examples, batch_size * ranks, seed, drop_last
        self.rank, self.ranks, self.epoch = rank, ranks, epoch

    def __len__(self) -> int:
        return self.examples // self.size if self.drop_last else -(-self.examples // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(self.examples))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + self.epoch())
            order = torch.randperm(self.examples, generator=generator).tolist()
        for start in range(0, len(self) * self.size, self.size):
            yield order[start : start + self.size][self.rank :: self.ranks]


def labels_tokens(task: HeadTask[Any]) -> bool:
    """Whether the model's outputs belong to tokens, not to texts."""
    return task.head in (TOKEN_CLASSIFICATION, QUESTION_ANSWERING)


def documents(row: ModelInput) -> list[dict[str, list[int]]]:
    """The tokenized texts of an input: one, or one for each choice."""
    columns = {key: row.inputs[key] for key in _MODEL_INPUTS if key in row.inputs}
    if isinstance(columns["input_ids"][0], list):
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [columns]


def lengths_of(rows: Sequence[ModelInput]) -> list[int]:
    """Number of tokens of each input."""
    return [sum(len(document["input_ids"]) for document in documents(row)) for row in rows]


def predict_logits(model: nn.Module, inputs: Sequence[ModelInput], batches: Batches) -> list[np.ndarray]:
    """Logits of inputs, in their order.

    Args:
        model: a model with the head of the task; it is set to evaluation mode meanwhile.
        inputs: inputs of any lengths.
        batches: how they are given to the model.

    Returns:
        One float32 array per input, as in `HeadTask.predict`.
    """
    device = next(model.parameters()).device
    predicted: dict[int, np.ndarray] = {}
    was_training = model.training
    model.eval()
    try:
        for piece in batches.pieces(inputs):
            rows = [inputs[place] for place in piece]
            tensors = {
                key: value.to(device) if isinstance(value, torch.Tensor) else value
                for key, value in batches.inputs(rows).items()
            }
            with torch.no_grad():
                logits = batches.logits(model(**tensors), tensors, len(rows)).cpu()
            parts = logits.split(lengths_of(rows)) if labels_tokens(batches.task) else logits
            predicted.update(zip(piece, (part.numpy() for part in parts), strict=True))
    finally:
        model.train(was_training)
    return [predicted[place] for place in range(len(inputs))]
