"""Bounded memory for every loss of sentence-transformers: batches are computed in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertPreTrainedModel


class InPieces:
    """Extends a model of sentence-transformers: a batch is computed in pieces of rows of similar lengths.

    The activations of a batch that does not fit into one piece are recomputed in the backward pass, piece by piece,
    as in GradCache (arXiv 2101.06983) but for any loss.
    """

    outputs: ClassVar[tuple[str, ...]]
    """Features that the losses read; others do not leave a piece."""

    tokens_per_batch: int | None = None
    """Maximum tokens of a piece; None for no limit."""
    calls_per_step: int = 1
    """How often the loss calls the model before the backward pass; together they keep activations of one piece."""

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """As for the model; with several pieces, only `outputs` are in the result."""
        module: Any = super()
        mask, limit = input.get("attention_mask"), self.tokens_per_batch
        if mask is None or limit is None:
            return dict(module.forward(input, **kwargs))
        lengths = mask.sum(1).tolist()
        pieces = list(self._pieces(lengths, limit))
        is_recomputed = sum(lengths) * self.calls_per_step > limit
        if len(pieces) == 1 and not is_recomputed:
            return dict(module.forward(input, **kwargs))

        def compute(rows: list[int]) -> tuple[torch.Tensor, ...]:
            output = module.forward(select(input, rows), **kwargs)
            return tuple(output[name] for name in self.outputs)

        # Without gradients, `checkpoint` only calls the function.
        results: Any = [
            checkpoint(compute, rows, use_reentrant=False) if is_recomputed else compute(rows) for rows in pieces
        ]
        order = torch.tensor([row for rows in pieces for row in rows], device=mask.device).argsort()
        joined = (_concatenate(parts)[order] for parts in zip(*results, strict=True))
        return {**input, **dict(zip(self.outputs, joined, strict=True))}

    def _pieces(self, lengths: list[int], limit: int) -> Iterator[list[int]]:
        """Divides rows into pieces, the longest first."""
        modules: Iterator[nn.Module] = self.modules()  # type: ignore[attr-defined]
        is_packed = any(isinstance(module, LlmJpModernBertPreTrainedModel) for module in modules)
        # Packed rows need no padding, but the modules after the encoder read padded outputs.
        cells = 2 * limit if is_packed else limit
        piece: list[int] = []
        tokens = 0
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            if piece and (tokens + lengths[row] > limit or (len(piece) + 1) * lengths[piece[0]] > cells):
                yield piece
                piece, tokens = [], 0
            piece.append(row)
            tokens += lengths[row]
        yield piece


def select(features: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Some rows of the features of a batch, without columns that are padding in all of them."""
    mask = features["attention_mask"]
    places = torch.tensor(rows, device=mask.device)
    columns = mask[places].any(0).nonzero().squeeze(1)
    start, stop = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, mask.shape[1])
    return {
        name: value
        if not isinstance(value, torch.Tensor) or value.shape[:1] != mask.shape[:1]
        else value[places, start:stop]
        if value.shape[:2] == mask.shape
        else value[places]
        for name, value in features.items()
    }


class OneForward(nn.Module):
    """A loss of sentence-transformers that embeds all columns of a batch in one forward pass.

    Args:
        model: a model with `sentence_embedding`.
        loss: a loss with `compute_loss_from_embeddings`.
    """

    def __init__(self, model: nn.Module, loss: Any) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, sentence_features: Any, labels: torch.Tensor | None) -> torch.Tensor:
        """As for the loss."""
        features = list(sentence_features)
        rows = [len(column["attention_mask"]) for column in features]
        tensors = [name for name, value in features[0].items() if isinstance(value, torch.Tensor)]
        merged = {**features[0], **{name: _concatenate([column[name] for column in features]) for name in tensors}}
        embeddings = self.model(merged)["sentence_embedding"].split(rows)
        loss: torch.Tensor = self.loss.compute_loss_from_embeddings(embeddings, labels)
        return loss


def _concatenate(parts: list[torch.Tensor] | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Concatenates rows; `(rows, length, …)` are padded with zeros to the longest."""
    if parts[0].dim() < 2 or len({part.shape[1:] for part in parts}) == 1:
        return torch.cat(list(parts))
    longest = max(part.shape[1] for part in parts)
    padding = (0, 0) * (parts[0].dim() - 2)
    return torch.cat([nn.functional.pad(part, (*padding, 0, longest - part.shape[1])) for part in parts])
