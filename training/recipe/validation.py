"""Checks of a recipe's keys, before any data or model is loaded.

Types come from the annotations of the arguments, all other rules from `rules`. `check_keys` is for the keys of any
training, `check` for those of pre-training.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin, GradientAccumulationPlugin
from transformers import Trainer, get_scheduler

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.modeling.attention_backends import BACKENDS
from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

from .arguments import ATTENTION_LAYERS, OWN_OPTIMIZERS, LaunchedArguments, PretrainingArguments
from .rules import (
    CHOICES,
    CONDITIONS,
    CONFLICTS,
    PRETRAINING_CHOICES,
    RANGES,
    SHARED_CONFLICTS,
    UNSUPPORTED,
    Conflicts,
)
from .schedule import STEP_COUNTS, Schedule
from .shapes import SHAPE, change_config, check_known, model_config
from .values import check_finite, check_type, default_values, plain_value

# Placeholder in packaged recipes for a value that every user must supply.
_PLACEHOLDER = "???"

# Keys of fsdp_config that accelerate's plugin does not have.
_FSDP_KEYS = {
    *("version", "transformer_layer_cls_to_wrap", "xla", "xla_fsdp_v2", "xla_fsdp_grad_ckpt", "xla_fsdp_settings"),
}

_ENTRY_TYPES: dict[str, Any] = {
    **dict.fromkeys(("path", "name", "split", "revision", "text_column"), str),
    "weight": float,
    **dict.fromkeys(("min_characters", "max_characters"), int),
}


def check(given: dict[str, Any]) -> None:
    """Checks the keys of a recipe, each by itself and together.

    Args:
        given: the keys that the recipe sets.

    Raises:
        UsageError: the first mistake, as one line that names the key.
    """
    values = check_keys(given, PretrainingArguments, UNSUPPORTED, PRETRAINING_CHOICES, (*CONFLICTS, *SHARED_CONFLICTS))
    if values.attention is not None:
        _check_attention(values.attention)
    for key in ("train_data", "validation_data"):
        _check_data(key, given.get(key) or [])
    check_schedule(values, Schedule(values.max_steps if values.max_steps > 0 else None, max_seconds=1.0))
    if values.model is not None:
        _check_model(values)


def check_keys(
    given: Mapping[str, Any],
    arguments: type[LaunchedArguments],
    unsupported: Mapping[str, str],
    choices: Mapping[str, list[str]],
    conflicts: Conflicts = SHARED_CONFLICTS,
) -> SimpleNamespace:
    """Checks keys of arguments, each by itself and together.

    Args:
        given: keys and their values.
        arguments: class of the arguments; all keys are its fields.
        unsupported: keys that cannot be set, and what to do instead.
        choices: keys, and the values that they accept.
        conflicts: rules for several values.

    Returns:
        The values of all keys as attributes, and `given`, the keys that are set.

    Raises:
        UsageError: the first mistake, as one line that names the key.
    """
    expected = typing.get_type_hints(arguments)
    for key, value in given.items():
        if value == _PLACEHOLDER:
            raise UsageError(f"{key}: missing. This recipe has no default for it. Give {key}=….")
        check_type(key, value, expected[key])
        if value and key in unsupported:
            raise UsageError(f"{key}: not supported; {unsupported[key]}.")
        check_finite(key, value)
    _check_ranges(given)
    values = SimpleNamespace(**{**default_values(arguments), **given, "given": given.keys()})
    for key, accepted in {**CHOICES, **choices}.items():
        if (value := plain_value(getattr(values, key))) is not None:
            check_known(value, accepted, key, "value")
    for key, is_violated, message in conflicts:
        if is_violated(values):
            raise UsageError(f"{key}: {message.format(**vars(values))}")
    return values


def check_launchable(arguments: LaunchedArguments) -> None:
    """Checks what transformers would check only after data and model are loaded.

    Raises:
        UsageError: a package of the optimizer is missing, or accelerator_config or fsdp_config is invalid.
    """
    placeholder: Any = torch.nn.Linear(1, 1)
    is_own = isinstance(arguments, PretrainingArguments) and arguments.optim in OWN_OPTIMIZERS
    try:
        if not is_own:
            Trainer.get_optimizer_cls_and_kwargs(arguments, placeholder)
    except (ImportError, ValueError, TypeError) as error:
        # optim_target_modules match the real model only.
        if "target modules found" not in str(error):
            raise UsageError(f"optim: {plain_value(arguments.optim)}: {' '.join(str(error).split())}") from error
    converted: Any = arguments.accelerator_config
    settings = converted.gradient_accumulation_kwargs or {}
    key = "accelerator_config.gradient_accumulation_kwargs"
    try:
        accumulated = GradientAccumulationPlugin(**{"num_steps": 1, **settings}).num_steps
    except (TypeError, ValueError) as error:
        raise UsageError(f"{key}: {error}.") from error
    if accumulated != 1:
        raise UsageError(f"{key}.num_steps: not supported; set gradient_accumulation_steps.")
    if arguments.fsdp and arguments.world_size == 1:
        raise UsageError("fsdp: needs several processes. Use accelerate launch, or set fsdp=null.")
    if isinstance(arguments.fsdp_config, dict):
        known = {field.name for field in fields(FullyShardedDataParallelPlugin)} | _FSDP_KEYS
        for name in arguments.fsdp_config:
            check_known(str(name).removeprefix("fsdp_"), known, "fsdp_config")


def check_trackers(arguments: LaunchedArguments) -> None:
    """Checks that experiment trackers are installed, which Trainer does only after loading model and data.

    Raises:
        UsageError: one is unknown or not installed.
    """
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    for name in sorted(set(arguments.report_to or ()) - set(get_available_reporting_integrations())):
        if name not in INTEGRATION_TO_CALLBACK:
            raise UsageError(f"report_to: unknown value {name!r}; choose from {', '.join(INTEGRATION_TO_CALLBACK)}.")
        raise UsageError(f"report_to: {name} is not installed. Try pip install {name.replace('_', '-')}.")


def without_effect(given: dict[str, Any]) -> list[str]:
    """Describes the keys of a recipe that differ from their defaults but change nothing.

    Args:
        given: the keys that the recipe sets, valid by `check`.
    """
    defaults = default_values(PretrainingArguments)
    values = SimpleNamespace(**{**defaults, **given})
    changed = {key for key, value in given.items() if value != plain_value(defaults[key])}
    return [
        f"{key} has no effect {condition}."
        for keys, condition, is_met in CONDITIONS
        for key in keys.split()
        if key in changed and not is_met(values)
    ]


def _check_ranges(values: Mapping[str, Any], where: str = "{key}") -> None:
    for keys, is_valid, rule in RANGES:
        for key in keys.split():
            value = values.get(key)
            if value is not None and not is_valid(value):
                raise UsageError(f"{where.format(key=key)}: {value!r} is invalid; {rule}.")


def _check_data(key: str, data: Any) -> None:
    for entry in data if isinstance(data, list) else [data]:
        if not isinstance(entry, dict):
            continue
        for name, value in entry.items():
            check_known(name, _ENTRY_TYPES, key)
            check_type(name, value, _ENTRY_TYPES[name], f"{key}: {name} of {entry.get('path')}")
        if not entry.get("path"):
            raise UsageError(f"{key}: an entry has no path.")
        _check_ranges(entry, f"{key}: {{key}} of {entry['path']}")
        if entry.get("max_characters", math.inf) < entry.get("min_characters", 0):
            raise UsageError(f"{key}: max_characters of {entry['path']} is below its min_characters.")
        if key == "validation_data" and "weight" in entry:
            raise UsageError(f"{key}: {entry['path']} has a weight, but held-out text is not weighted. Remove it.")


def _check_attention(attention: str | dict[str, str]) -> None:
    if isinstance(attention, str):
        named = {"attention": attention}
    else:
        for kind in attention:
            check_known(kind, ATTENTION_LAYERS, "attention")
        named = {f"attention.{kind}": name for kind, name in attention.items()}
    for place, name in named.items():
        check_known(name, BACKENDS, place, "backend")
        missing = BACKENDS[name].missing_requirement()
        if missing is not None:
            raise UsageError(f"{place}: {name} needs {missing}.")


def check_schedule(values: SimpleNamespace, schedule: Schedule) -> None:
    """Builds the learning-rate schedule, which transformers would check only after the data is loaded.

    Args:
        values: the values of all keys.
        schedule: length of the run.
    """
    settings = values.lr_scheduler_kwargs or {}
    name = plain_value(values.lr_scheduler_type)
    try:
        warmup = schedule.steps(values.warmup_steps)
        counts = {key: schedule.steps(settings[key]) for key in STEP_COUNTS if key in settings}
    except (ValueError, TypeError) as error:
        raise UsageError(f"warmup_steps{', lr_scheduler_kwargs' if settings else ''}: {error}") from error
    if min(counts.values(), default=0) < 0:
        raise UsageError("lr_scheduler_kwargs: a number of steps must not be negative.")
    if warmup + sum(counts.values()) > schedule.length:
        raise UsageError(
            f"warmup_steps: {warmup} warm-up steps and {sum(counts.values())} steps of lr_scheduler_kwargs exceed "
            f"max_steps={values.max_steps}."
        )
    try:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        get_scheduler(name, optimizer, warmup, schedule.length, {**settings, **counts} or None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"lr_scheduler_kwargs: {name} does not accept them: {error}.") from error


def _check_model(values: SimpleNamespace) -> None:
    _check_config(values)
    if isinstance(values.model, dict):
        _check_ranges(values.model, "model.{key}")


def _check_config(values: SimpleNamespace) -> None:
    model = values.model
    if values.init_from:
        if isinstance(model, str) or SHAPE in model:
            raise UsageError(
                "model: a shape is for a new model. With init_from, give settings of its configuration to change, "
                "such as model.global_rope_theta=160000, or none (model=null)."
            )
        # The model itself is not loaded yet, so only names and types are checked.
        change_config(LlmJpModernBertConfig(), model)
        return
    # The tokenizer is not loaded yet; the vocabulary size does not matter here.
    longest = model_config(model, vocab_size=100_000).max_position_embeddings
    if values.sequence_length > longest:
        raise UsageError(
            f"sequence_length: {values.sequence_length} tokens, but the model reads at most {longest}. Shorten it, or "
            "raise model.max_position_embeddings."
        )
