"""Time per token over the length of one sequence, beside the count of floating-point operations.

A local layer costs the same for each token at any length, a global one more with each; the whole encoder is to follow
the count. Only this library is timed: a candidate is a length, and the shortest is what the others are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from llm_jp_modernbert.modeling.flops import forward_flops

from ..measure import Case, report
from ..models import FIRST_WORD, Models
from ..options import Dtype, Outs, Repeats, Shape, beside

LENGTHS = (1024, 2048, 4096, 8192)
LOCAL, GLOBAL, WHOLE = "local layer", "global layer", "whole encoder"

_KINDS = {LOCAL: "sliding_attention", GLOBAL: "full_attention"}


def benchmark(
    shape: Shape = "base",
    dtype: Dtype = "bfloat16",
    repeats: Repeats = 5,
    out: Outs = None,
) -> None:
    """Tokens per second of a local layer, a global layer and the whole encoder from 1024 to 8192 tokens."""
    models, kind = Models(shape), getattr(torch, dtype)
    for what in (LOCAL, GLOBAL, WHOLE):
        report(over_lengths(models, kind, what), repeats, beside(out, what.replace(" ", "-")))


def over_lengths(models: Models, dtype: torch.dtype, what: str, lengths: Sequence[int] = LENGTHS) -> Case:
    """One layer or the whole encoder at each length.

    Args:
        models: this library's is timed.
        dtype: of weights and activations.
        what: `LOCAL`, `GLOBAL` or `WHOLE`.
        lengths: tokens of the sequence.
    """
    model = models.ours(dtype).eval().model
    run = partial(_whole, model) if what == WHOLE else partial(_layer, model, what)
    candidates = {name_of(length): run(length) for length in lengths}
    config = models.config
    if what != WHOLE:
        config = type(config)(**{**config.to_dict(), "num_hidden_layers": 1, "layer_types": [_KINDS[what]]})
    operations = {name_of(length): forward_flops(config, [length], 0) / length for length in lengths}
    settings = {**models.settings, "dtype": str(dtype).removeprefix("torch."), "lengths": list(lengths)}
    return Case(what, "tokens", name_of(lengths[0]), candidates, settings, operations)


def name_of(length: int) -> str:
    """The candidate of a length."""
    return f"{length:,} tokens"


def _whole(model: Any, length: int) -> Callable[[int], float]:
    ids = torch.randint(FIRST_WORD, model.config.vocab_size, (1, length), device=model.device)

    def read(turn: int) -> float:
        with torch.inference_mode():
            model(input_ids=ids)
        return float(length)

    return read


def _layer(model: Any, what: str, length: int) -> Callable[[int], float]:
    layer = next(layer for layer in model.layers if layer.attention_type == _KINDS[what])
    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    # What the model hands its layer, whatever that is.
    hook = layer.register_forward_pre_hook(lambda _, *arguments: given.append(arguments), with_kwargs=True)
    _whole(model, length)(0)
    hook.remove()
    positional, named = given[0]

    def read(turn: int) -> float:
        with torch.inference_mode():
            layer(*positional, **named)
        return float(length)

    return read
