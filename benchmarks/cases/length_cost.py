"""Time per token as a function of the sequence length, compared with the number of floating-point operations.

A local layer has a constant cost per token, a global layer a growing one, and the encoder should follow the operation
count. Only this library is timed: the candidates are lengths, and the shortest is the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from llm_jp_modernbert.modeling.flops import forward_flops

from ..measure import Candidate, Case
from ..models import FIRST_WORD, Models, dtype_name
from ..options import Dtype, Shape

LOCAL, GLOBAL, WHOLE = "local layer", "global layer", "whole encoder"

_LENGTHS = (1024, 2048, 4096, 8192)
_ATTENTION_TYPES = {LOCAL: "sliding_attention", GLOBAL: "full_attention"}


def cases(shape: Shape = "base", dtype: Dtype = "bfloat16") -> Iterator[Case]:
    """Measure tokens/s of a local layer, a global layer and the encoder, from 1024 to 8192 tokens."""
    models = Models(shape)
    for part in (LOCAL, GLOBAL, WHOLE):
        yield over_lengths(models, getattr(torch, dtype), part, _LENGTHS)


def over_lengths(models: Models, dtype: torch.dtype, part: str, lengths: Sequence[int]) -> Case:
    """One layer or the whole encoder at each length.

    Args:
        models: models, of which this library's is timed.
        dtype: data type of weights and activations.
        part: `LOCAL`, `GLOBAL` or `WHOLE`.
        lengths: sequence lengths in tokens, in ascending order.
    """
    model = models.ours(dtype).eval().model
    config = models.config
    if part != WHOLE:
        layer_types = [_ATTENTION_TYPES[part]]
        config = type(config)(**{**config.to_dict(), "num_hidden_layers": 1, "layer_types": layer_types})
    names = {length: f"{length:,} tokens" for length in lengths}
    candidates = {name: _candidate(model, part, length) for length, name in names.items()}
    operations = {name: forward_flops(config, [length], 0) / length for length, name in names.items()}
    settings = {**models.settings, "dtype": dtype_name(dtype), "lengths": list(lengths)}
    return Case(part, "tokens", names[lengths[0]], candidates, settings, operations)


@torch.inference_mode()
def _candidate(model: Any, part: str, length: int) -> Candidate:
    ids = torch.randint(FIRST_WORD, model.config.vocab_size, (1, length), device=model.device)
    module, positional, named = model, (), {"input_ids": ids}
    if part != WHOLE:
        module = next(layer for layer in model.layers if layer.attention_type == _ATTENTION_TYPES[part])
        calls: list[tuple[Any, Any]] = []
        # Record the arguments that the model passes to the layer, whatever its signature.
        hook = module.register_forward_pre_hook(lambda _, *arguments: calls.append(arguments), with_kwargs=True)
        model(input_ids=ids)
        hook.remove()
        positional, named = calls[0]

    @torch.inference_mode()
    def run(turn: int) -> float:
        module(*positional, **named)
        return float(length)

    return run
