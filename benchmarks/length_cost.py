"""Time per token over the length of one sequence, beside the count of floating-point operations.

A local layer costs the same for each token at any length, a global one more with each; the whole encoder is to follow
the count. Only this library is timed: a candidate is a length, and the shortest is what the others are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from llm_jp_modernbert.modeling.flops import forward_flops

from .measure import Case, report
from .models import Models

LENGTHS = (1024, 2048, 4096, 8192)
LOCAL, GLOBAL, WHOLE = "local layer", "global layer", "whole encoder"

_KINDS = {LOCAL: "sliding_attention", GLOBAL: "full_attention"}


def benchmark(
    shape: Annotated[str, typer.Option(help="nano, small or base.")] = "base",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    repeats: Annotated[int, typer.Option()] = 5,
    out: Annotated[Path | None, typer.Option(help="File for the JSON; each case adds its name.")] = None,
) -> None:
    """Tokens per second of a local layer, a global layer and the whole encoder from 1024 to 8192 tokens."""
    models, kind = Models(shape), getattr(torch, dtype)
    for what in (LOCAL, GLOBAL, WHOLE):
        file = None if out is None else out.with_name(f"{out.stem}-{what.replace(' ', '-')}{out.suffix}")
        report(over_lengths(models, kind, what), repeats, file)


def over_lengths(models: Models, dtype: torch.dtype, what: str, lengths: Sequence[int] = LENGTHS) -> Case:
    """One layer or the whole encoder at each length.

    Args:
        models: this library's is timed.
        dtype: of weights and activations.
        what: `LOCAL`, `GLOBAL` or `WHOLE`.
        lengths: tokens of the sequence.
    """
    model = models.ours(dtype).eval().model
    run = _whole if what == WHOLE else _layer
    candidates = {name_of(length): run(model, what, length) for length in lengths}
    config = models.config
    if what != WHOLE:
        config = type(config)(**{**config.to_dict(), "num_hidden_layers": 1, "layer_types": [_KINDS[what]]})
    operations = {name_of(length): forward_flops(config, [length], 0) / length for length in lengths}
    settings = {**models.settings, "dtype": str(dtype).removeprefix("torch."), "lengths": list(lengths)}
    return Case(what, "tokens", name_of(lengths[0]), candidates, settings, operations)


def name_of(length: int) -> str:
    """The candidate of a length."""
    return f"{length:,} tokens"


def _whole(model: Any, what: str, length: int) -> Callable[[int], float]:
    ids = torch.randint(8, model.config.vocab_size, (1, length), device=model.device)

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
    _whole(model, WHOLE, length)(0)
    hook.remove()
    positional, named = given[0]

    def read(turn: int) -> float:
        with torch.inference_mode():
            layer(*positional, **named)
        return float(length)

    return read
