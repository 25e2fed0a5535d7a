"""Encoder forward pass: tokens/s of real tokens, with the same weights and inputs as transformers' ModernBERT.

Sequences of one length without padding, and a batch of realistic (lognormal) lengths in which about half of the padded
batch is padding. The peer reads that batch padded, and also sorted into batches of four, which is its fastest way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer

from llm_jp_modernbert.modeling.flops import forward_flops

from ..measure import OURS, Candidate, Case
from ..models import FIRST_WORD, Compiled, Dtype, Models, Shape, whole_numbers

PEER, SORTED = "transformers, sdpa", "transformers, sdpa, sorted into fours"
LOCAL, GLOBAL, WHOLE = "local layer", "global layer", "whole encoder"

_ATTENTION_TYPES = {LOCAL: "sliding_attention", GLOBAL: "full_attention"}
# Tokens of the warm-up: more than one block of local attention, to compile layers for long inputs.
_WARM_UP_TOKENS = 512


def cases(
    lengths: Annotated[str, typer.Option(help="Comma-separated lengths of the single sequences, in tokens.")] = (
        "1024,8192"
    ),
    batch: Annotated[int, typer.Option(help="Sequences in the batch of realistic lengths; 0 skips it.", min=0)] = 16,
    shape: Shape = "base",
    dtype: Dtype = "bfloat16",
    compiled: Compiled = True,
) -> Iterator[Case]:
    """Measure the encoder's forward pass: tokens/s and extra peak memory, against transformers."""
    models = Models(shape)
    for length in whole_numbers("--lengths", lengths):
        yield one_length(models, dtype, 1, length, compiled)
    if batch:
        yield mixed_lengths(models, dtype, realistic_lengths(batch), compiled)


def realistic_lengths(count: int, longest: int = 1024) -> list[int]:
    """Draw lognormal document lengths with a median of about 300 tokens."""
    lengths = np.random.default_rng(0).lognormal(5.8, 0.5, count)
    return [int(length) for length in np.clip(lengths, 16, longest)]


def one_length(models: Models, dtype: str, rows: int, length: int, compiled: bool) -> Case:
    """A batch of `rows` sequences of `length` tokens, without padding."""
    ids = torch.randint(FIRST_WORD, models.config.vocab_size, (rows, length), device=models.device)
    warm_up = {"input_ids": ids[:, : max(_WARM_UP_TOKENS, length // 8)]}
    batches = {PEER: [{"input_ids": ids}]}
    return _case(f"{rows} × {length}", models, dtype, [length] * rows, batches, compiled, {}, warm_up)


def mixed_lengths(models: Models, dtype: str, lengths: Sequence[int], compiled: bool) -> Case:
    """A batch of sequences with the given lengths in tokens, padded to the longest."""
    ascending = sorted(lengths)
    padded = _padded(models, lengths)
    fours = [_padded(models, ascending[start : start + 4]) for start in range(0, len(ascending), 4)]
    settings = {"padding": f"{1 - sum(lengths) / padded['input_ids'].numel():.0%}"}
    batches = {PEER: [padded], SORTED: fours}
    return _case(f"{len(lengths)} realistic lengths", models, dtype, lengths, batches, compiled, settings)


def _padded(models: Models, lengths: Sequence[int]) -> dict[str, torch.Tensor]:
    columns = torch.arange(max(lengths), device=models.device)
    mask = (columns < torch.tensor(lengths, device=models.device)[:, None]).long()
    ids = torch.randint(FIRST_WORD, models.config.vocab_size, mask.shape, device=models.device)
    return {"input_ids": ids * mask + models.config.pad_token_id * (1 - mask), "attention_mask": mask}


def _case(
    title: str,
    models: Models,
    dtype: str,
    lengths: Sequence[int],
    batches: Mapping[str, Sequence[dict[str, torch.Tensor]]],
    compiled: bool,
    settings: dict[str, Any],
    warm_up: dict[str, torch.Tensor] | None = None,
) -> Case:
    """Forward passes of the peer on each of the `batches`, and of this library on the first of them."""
    tokens = sum(lengths)

    def candidate(model: Any, inputs: Sequence[dict[str, torch.Tensor]]) -> Candidate:
        encoder = model.eval().model

        @torch.inference_mode()
        def run(turn: int) -> float:
            for batch in inputs if turn or warm_up is None else [warm_up]:
                encoder(**batch)
            return float(tokens)

        return run

    candidates = {name: candidate(models.peer(dtype), inputs) for name, inputs in batches.items()}
    for name, model in models.candidates(dtype, compiled).items():
        candidates[name] = candidate(model, batches[PEER])
    settings = {**models.settings, "dtype": dtype, "sequences": len(lengths), "tokens": tokens, **settings}
    operations = {OURS: forward_flops(models.config, lengths, 0) / tokens}
    return Case(f"encoder, {title}, {dtype}", "tokens", PEER, candidates, settings, operations, memory=True)


def cost_over_lengths(models: Models, dtype: str, part: str, lengths: Sequence[int]) -> Case:
    """This library's `LOCAL` layer, `GLOBAL` layer or `WHOLE` encoder at each length, relative to the first length.

    A local layer has a constant cost per token, a global layer a growing one, and the encoder should follow the
    operation count.
    """
    model = models.ours(dtype).eval().model
    config = models.config
    if part != WHOLE:
        layer_types = [_ATTENTION_TYPES[part]]
        config = type(config)(**{**config.to_dict(), "num_hidden_layers": 1, "layer_types": layer_types})
    names = {length: f"{length:,} tokens" for length in lengths}
    candidates = {name: _part_candidate(model, part, length) for length, name in names.items()}
    operations = {name: forward_flops(config, [length], 0) / length for length, name in names.items()}
    settings = {**models.settings, "dtype": dtype, "lengths": list(lengths)}
    return Case(part, "tokens", names[lengths[0]], candidates, settings, operations)


@torch.inference_mode()
def _part_candidate(model: Any, part: str, length: int) -> Candidate:
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
