"""SPLADE models (arXiv 2109.10086) on packed documents, without the logits of all their tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import Any

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch.autograd.function import once_differentiable

from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM

# Tokens whose logits are held at a time: 100 MB for 100,000 tokens of vocabulary.
_CHUNK = 256


class SpladeEncoder(SparseEncoder):
    """A `SparseEncoder` that holds no logits of a whole text, if its encoder is this package's."""

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """As for `SparseEncoder`."""
        encoder, pooling, *others = self
        is_splade = isinstance(pooling, SpladePooling) and pooling.pooling_strategy == "max" and not others
        if not is_splade or not isinstance(encoder.model, LlmJpModernBertForMaskedLM):
            return dict(super().forward(input, **kwargs))
        weights = vocabulary_weights(encoder.model, input["input_ids"], input["attention_mask"])
        if pooling.activation_function == "log1p_relu":
            weights = weights.log1p()
        return {**input, "sentence_embedding": weights}


def vocabulary_weights(
    model: LlmJpModernBertForMaskedLM, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """The weight log(1 + max(0, logit)) of each token of the vocabulary, of a text's tokens the largest.

    Args:
        model: a masked language model.
        input_ids: int64 `(batch, length)`.
        attention_mask: `(batch, length)`, nonzero at tokens.

    Returns:
        `(batch, vocabulary)` float32.
    """
    layout = model.build_layout(input_ids, attention_mask).with_lengths()
    hidden = model.head(layout.unpad(model.model(input_ids=input_ids, layout=layout).last_hidden_state))
    largest, _ = _LargestLogits.apply(hidden, model.decoder.weight, model.decoder.bias, layout.lengths)
    return torch.log1p(largest)


class _LargestLogits(torch.autograd.Function):
    """The largest logits of each document, but at least 0, and the tokens that have them, or −1.

    Only these tokens get gradients, so the backward pass multiplies by sparse matrices.
    """

    @staticmethod
    def forward(
        hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, lengths: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype, device = hidden.dtype, hidden.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        # Once, not for every chunk as autocast would.
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        largest = hidden.new_zeros(len(lengths), len(weight), dtype=torch.promote_types(dtype, torch.float32))
        tokens = torch.full_like(largest, -1, dtype=torch.int32)
        ends = list(accumulate(lengths))
        for first in range(0, len(hidden), _CHUNK):
            logits = torch.nn.functional.linear(hidden[first : first + _CHUNK].to(dtype), weight, bias)
            last = first + len(logits)
            for document in range(bisect_right(ends, first), bisect_left(ends, last) + 1):
                start, stop = max(first, ends[document] - lengths[document]), min(last, ends[document])
                values, places = logits[start - first : stop - first].max(0)
                is_larger = values > largest[document]
                largest[document] = torch.where(is_larger, values.to(largest.dtype), largest[document])
                tokens[document] = torch.where(is_larger, (places + start).int(), tokens[document])
        return largest, tokens

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        hidden, weight, bias, _ = inputs
        _, tokens = output
        ctx.mark_non_differentiable(tokens)
        ctx.save_for_backward(hidden, weight, tokens)
        ctx.has_bias = bias is not None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, tokens = ctx.saved_tensors
        documents, words = ((tokens >= 0) & (grad != 0)).nonzero(as_tuple=True)
        places, values = tokens[documents, words].long(), grad[documents, words]
        shape = (len(hidden), len(weight))
        matrix = torch.sparse_coo_tensor(torch.stack([places, words]), values, shape, check_invariants=False)
        grad_hidden = torch.sparse.mm(matrix, weight.to(grad.dtype)).to(hidden.dtype)
        grad_weight = torch.sparse.mm(matrix.t(), hidden.to(grad.dtype)).to(weight.dtype)
        grad_bias = values.new_zeros(len(weight)).index_add(0, words, values) if ctx.has_bias else None
        return grad_hidden, grad_weight, grad_bias, None
