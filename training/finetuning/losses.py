"""Losses of fine-tuning, computed from the logits of a piece and divided by the items of a whole step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from llm_jp_modernbert.inference.heads import QUESTION_ANSWERING

from .batches import labels_tokens
from .head_task import IGNORED, HeadTask, ModelInput
from .text import MultiLabelClassification, Regression


def targets_of(task: HeadTask[Any], rows: Sequence[ModelInput]) -> torch.Tensor:
    """Labels of inputs.

    Returns:
        int64 `(rows,)` class or choice, `(tokens,)` class, or `(rows, 2)` first and last token of the answer; or float
        `(rows,)` scores or `(rows, labels)`.
    """
    if task.head == QUESTION_ANSWERING:
        return torch.tensor([[row.inputs["start_positions"], row.inputs["end_positions"]] for row in rows])
    if labels_tokens(task):
        return torch.tensor([label for row in rows for label in row.inputs["labels"]])
    return torch.tensor([row.inputs["labels"] for row in rows])


def items_of(task: HeadTask[Any], targets: torch.Tensor, weights: torch.Tensor | None) -> float:
    """Divisor of the summed loss: the number of labels, or the sum of their class weights."""
    if task.head == QUESTION_ANSWERING:
        return float(len(targets))
    if targets.is_floating_point():
        return float(targets.numel())
    counted = targets[targets != IGNORED]
    return float(len(counted) if weights is None else weights.cpu()[counted].sum())


def summed_loss(
    task: HeadTask[Any],
    logits: torch.Tensor,
    targets: torch.Tensor,
    lengths: Sequence[int],
    weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Sum of the losses of a piece, as in transformers' models and with class weights as in `CrossEntropyLoss`.

    Args:
        task: type of task.
        logits: float32, see `Batches.logits`.
        targets: see `targets_of`.
        lengths: number of tokens of each input.
        weights: `(labels,)` float weights of the classes; with several labels per text, those of the positive class.
        smoothing: label smoothing of the cross-entropy.
    """
    if isinstance(task, Regression):
        return functional.mse_loss(logits.squeeze(-1), targets, reduction="sum")
    if isinstance(task, MultiLabelClassification):
        return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="sum")
    if task.head == QUESTION_ANSWERING:
        # Two columns of padding cost nothing, unlike padding in the encoder.
        padded = pad_sequence(list(logits.split(list(lengths))), True, float("-inf"))
        return functional.cross_entropy(padded, targets, reduction="sum") / 2
    return functional.cross_entropy(logits, targets, weights, reduction="sum", label_smoothing=smoothing)
