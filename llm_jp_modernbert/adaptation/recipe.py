"""The recipe of an adaptation: `adapt.yaml`, with the keys that depend on the base, the texts and the device."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import torch

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.recipe.arguments import PretrainingArguments
from llm_jp_modernbert.training.recipe.loading import apply_override, load_recipe
from llm_jp_modernbert.training.recipe.validation import check_schedule
from llm_jp_modernbert.training.run.summary import Stage

from .options import EPOCHS, REPLAY_SHARE, AdaptOptions
from .texts import Texts

RECIPE = "adapt"
"""Name of the packaged recipe."""

# The peak of the learning rate, relative to that of the pre-training of the base.
_PEAK = 0.3
# Tokens of a step: those of the base's pre-training, but at most this number.
_BATCH = 8192
# The number of steps is unknown before the texts are read.
_UNKNOWN_STEPS = 10**9

_KEYS = [field.name for field in fields(PretrainingArguments) if field.init]
_LIMITS = ("max_steps", "max_minutes")
# Keys that an option of the command replaces.
_OPTIONS = {
    "init_from": "name the base as the first argument",
    "tokenizer": "the tokenizer of the base is used",
    "output_dir": "use --out instead",
    "train_data": "use --train and --replay instead",
    "validation_data": "use --validation instead",
    "exclude_data": "held-out documents are excluded already",
    "text_column": "use --text-column instead",
    "seed": "use --seed instead",
    "max_tokens": "use --max-tokens instead",
    "resume_from_checkpoint": "a rerun of the same command continues",
    "push_to_hub": "publish the finished model with llm-jp-modernbert release",
}


def given_keys(options: AdaptOptions) -> dict[str, Any]:
    """The keys that the user gives as `key=value`.

    Raises:
        UsageError: one has no value, is unknown, or is that of an option.
    """
    given: dict[str, Any] = {}
    for override in options.overrides:
        if "=" not in override:
            raise UsageError(f"{override}: give key=value. For several files, repeat the option: --train A --train B.")
        apply_override(given, override, _KEYS)
    for key, instead in _OPTIONS.items():
        if key in given:
            raise UsageError(f"{key}: {instead}.")
    return given


def replay_share(options: AdaptOptions) -> float:
    """Share of general text in the training text."""
    if not options.replay:
        return 0.0
    return REPLAY_SHARE if options.replay_share is None else options.replay_share


def base_learning_rate(stages: Sequence[Stage]) -> float | None:
    """The highest learning rate in the pre-training of the base; None if unknown."""
    return max((stage["recipe"].get("learning_rate", 0.0) for stage in stages), default=0.0) or None


def make_recipe(options: AdaptOptions, run: Path, context: int, stages: Sequence[Stage]) -> PretrainingArguments:
    """The recipe before the texts are read, which decide its length; see `complete`.

    Args:
        options: options of the command.
        run: directory of the run.
        context: maximum tokens of an input of the base.
        stages: its training stages, see `training.run.summary`.

    Raises:
        UsageError: a key is unknown or invalid.
    """
    given = given_keys(options)
    keys: dict[str, Any] = {
        "init_from": options.base,
        "output_dir": str(run),
        "train_data": options.train,
        "text_column": options.text_column,
        "seed": options.seed,
    }
    # Wrong types are reported when the recipe is loaded.
    asked = {key: value for key, value in given.items() if isinstance(value, int)}
    last: Mapping[str, Any] = stages[-1]["recipe"] if stages else {}
    length = min(last.get("sequence_length") or context, context, asked.get("tokens_per_batch", _BATCH))
    length = keys["sequence_length"] = asked.get("sequence_length", length)
    if "per_device_train_batch_size" in given:
        keys["tokens_per_batch"] = None
    else:
        # More steps than with a larger batch; domains have little text.
        rows = (stages[-1].get("rows_per_step") if stages else None) or _BATCH
        keys["tokens_per_batch"] = max(length, min(_BATCH, rows * length))
    if (peak := base_learning_rate(stages)) is not None:
        keys["learning_rate"] = _PEAK * peak
    if not {"bf16", "fp16"} & given.keys():
        has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        keys["bf16"] = has_bfloat16 and not given.get("use_cpu")
    if options.max_tokens is not None:
        keys["max_tokens"] = options.max_tokens
    if _is_limited_by_epochs(options, given):
        keys["max_steps"] = _UNKNOWN_STEPS
    recipe = load_recipe(RECIPE, [*(f"{key}={json.dumps(value)}" for key, value in keys.items()), *options.overrides])
    if recipe.sequence_length > context and recipe.model is None:
        raise UsageError(
            f"sequence_length: {recipe.sequence_length:,} tokens, but the base reads at most {context:,}."
        )
    return recipe


def complete(
    recipe: PretrainingArguments, options: AdaptOptions, texts: Texts, held_out: Sequence[Path]
) -> PretrainingArguments:
    """Completes a recipe with the texts and its length.

    Args:
        recipe: the recipe of `make_recipe`.
        options: options of the command.
        texts: the texts.
        held_out: files of the held-out documents, those of the domain first.

    Raises:
        UsageError: the learning-rate schedule is longer than the training.
    """
    changes: dict[str, Any] = {
        "train_data": _train_data(options, texts),
        "exclude_data": [str(path) for path in held_out],
        "validation_data": str(held_out[0]),
    }
    # A block of several passes would shuffle their documents together.
    characters = math.ceil(texts.train.characters / (1 - replay_share(options)))
    changes["block_characters"] = min(recipe.block_characters, characters)
    if _is_limited_by_epochs(options, given_keys(options)):
        epochs = EPOCHS if options.epochs is None else options.epochs
        tokens_per_step = recipe.rows_per_step * recipe.sequence_length
        changes["max_steps"] = max(1, math.ceil(epochs * tokens_per_epoch(options, texts) / tokens_per_step))
    completed = replace(recipe, **changes)
    check_schedule(cast(Any, completed), completed.schedule())
    return completed


def _is_limited_by_epochs(options: AdaptOptions, given: dict[str, Any]) -> bool:
    is_limited = options.max_tokens is not None or any(map(given.get, _LIMITS))
    return "max_steps" not in given and (options.epochs is not None or not is_limited)


def _train_data(options: AdaptOptions, texts: Texts) -> list[Any]:
    """Without replay, one source that is read completely; with it, a source for each path, weighted by its share."""
    if texts.replay is None:
        return list(texts.train.paths)
    share = replay_share(options)
    entries = []
    for corpus, part in ((texts.train, 1 - share), (texts.replay, share)):
        total = sum(corpus.weights)
        entries += [
            {"path": path, "weight": part * weight / total}
            for path, weight in zip(corpus.paths, corpus.weights, strict=True)
        ]
    return entries


def tokens_per_epoch(options: AdaptOptions, texts: Texts) -> float:
    """Estimated number of tokens in one pass over the texts of the domain, with the general text mixed in."""
    domain, replay = texts.train, texts.replay
    if replay is None:
        return domain.tokens
    share = replay_share(options)
    # Shares are of characters.
    return domain.tokens + domain.characters * share / (1 - share) * replay.tokens / replay.characters
