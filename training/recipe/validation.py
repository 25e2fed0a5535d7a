"""Checks of a recipe's keys, before any data or model is loaded.

Types come from the annotations of `PretrainingArguments`; `RANGES` and `CONFLICTS` list all other rules.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, make_dataclass
from enum import Enum
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import SchedulerType, get_scheduler
from transformers.trainer_utils import HubStrategy
from transformers.training_args import OptimizerNames
from transformers.utils.import_utils import is_torch_bf16_gpu_available

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

from .arguments import SPECIAL_TOKENS_PER_PIECE, PretrainingArguments
from .schedule import Schedule
from .shapes import SHAPE, change_config, check_known, model_config

# Placeholder in packaged recipes for a value that every user must supply.
_PLACEHOLDER = "???"

# Keys of TrainingArguments that have no effect here, or a different one, and what to use instead.
_UNSUPPORTED = {
    "num_train_epochs": "a stream has no length: set max_steps, max_tokens or max_minutes",
    "load_best_model_at_end": "the log compares checkpoints by held-out loss; llm-jp-modernbert average averages them",
    "auto_find_batch_size": "the batch size changes the result: set tokens_per_batch",
    "deepspeed": "use FSDP2 with an accelerate configuration",
    "save_on_each_node": "a checkpoint holds the state of all ranks, on a disk that all nodes share",
    "enable_jit_checkpoint": "SIGTERM and SIGUSR1 always save a checkpoint",
}

_ENTRY_TYPES: dict[str, Any] = {
    **dict.fromkeys(("path", "name", "split", "revision", "text_column"), str),
    "weight": float,
    **dict.fromkeys(("min_characters", "max_characters"), int),
}


def plain_value(value: Any) -> Any:
    """The value of an enum member; other values unchanged."""
    return value.value if isinstance(value, Enum) else value


# Transformers accepts more strategies, but a stream of batches has no epochs and no best checkpoint.
_CHOICES: dict[str, list[str]] = {
    **{key: ["no", "steps"] for key in ("eval_strategy", "logging_strategy", "save_strategy")},
    "optim": [member.value for member in OptimizerNames],
    "lr_scheduler_type": [member.value for member in SchedulerType],
    "hub_strategy": [member.value for member in HubStrategy],
}

# Rules for single values: keys, whether a value is valid, and the rule as it ends the message.
RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("stage", lambda value: bool(re.fullmatch(r"[\w.-]+", value)), "use letters, digits, '.', '_' and '-'"),
    (
        "max_tokens max_minutes learning_rate block_characters interleave data_lanes max_validation_tokens weight",
        lambda value: value > 0,
        "it must be above 0",
    ),
    (
        "batch_warmup_steps warmup_steps max_skipped_steps weight_decay dataloader_num_workers min_characters "
        "max_characters",
        lambda value: value >= 0,
        "it must not be negative",
    ),
    ("per_device_train_batch_size gradient_accumulation_steps", lambda value: value >= 1, "it must be at least 1"),
    ("keep_steps publish_steps probe_steps", lambda steps: min(steps, default=0) >= 0, "steps count from 0"),
    (
        "mlm_probability final_mlm_probability",
        lambda value: 0 < value <= 1,
        "a fraction of tokens must be above 0 and at most 1",
    ),
    ("mask_share random_share", lambda value: 0 <= value <= 1, "a fraction must be between 0 and 1"),
    ("sequence_length", lambda value: value > SPECIAL_TOKENS_PER_PIECE, "a row must hold a token, CLS and SEP"),
)


def _is_fraction_of_unknown(key: str) -> Callable[[Any], object]:
    return lambda v: v.max_steps <= 0 and 0 < (getattr(v, key) or 0) < 1


# Rules for several values: the key at fault, whether the values violate the rule, and the message, a format string of
# the values. Values are attributes; `given` holds the keys that the recipe sets.
CONFLICTS: tuple[tuple[str, Callable[[Any], object], str], ...] = (
    ("output_dir", lambda v: not v.output_dir, "missing. Name the directory to write the run to."),
    ("train_data", lambda v: not v.train_data, "missing. Name files, directories, patterns or datasets of text."),
    (
        "model",
        lambda v: v.model is None and not v.init_from,
        "missing. Name a shape (base, small, nano), give settings, or name a model to start from in init_from.",
    ),
    (
        "tokenizer",
        lambda v: not v.tokenizer and not v.init_from,
        "missing. Name a local path, a repository or a SentencePiece .model file.",
    ),
    (
        "max_steps",
        lambda v: v.max_steps <= 0 and v.max_tokens is None and v.max_minutes is None,
        "missing: the run has no end. Set max_steps, max_tokens or max_minutes.",
    ),
    (
        "random_share",
        lambda v: v.mask_share + v.random_share > 1 + 1e-9,
        "{random_share} and mask_share={mask_share} add up to more than 1.",
    ),
    (
        "tokens_per_batch",
        lambda v: v.tokens_per_batch is not None and "per_device_train_batch_size" in v.given,
        "per_device_train_batch_size is set as well. Set one of them, and the other to null.",
    ),
    (
        "tokens_per_batch",
        lambda v: v.tokens_per_batch is not None and v.tokens_per_batch < v.sequence_length,
        "{tokens_per_batch} tokens cannot hold one row of sequence_length={sequence_length}.",
    ),
    (
        "batch_warmup_steps",
        lambda v: 0 < v.max_steps <= v.batch_warmup_steps,
        "{batch_warmup_steps} must be below max_steps={max_steps}.",
    ),
    (
        "final_mlm_probability",
        lambda v: (
            v.final_mlm_probability is not None
            and (v.max_steps <= 0 or plain_value(v.lr_scheduler_type) != SchedulerType.WARMUP_STABLE_DECAY.value)
        ),
        "it applies during learning-rate decay: set max_steps, and lr_scheduler_type=warmup_stable_decay with "
        "lr_scheduler_kwargs.num_decay_steps.",
    ),
    (
        "final_mlm_probability",
        lambda v: v.final_mlm_probability is not None and (v.max_tokens, v.max_minutes) != (None, None),
        "it starts at a fixed step, but max_tokens and max_minutes can move the decay to an earlier one. Set "
        "max_tokens=null and max_minutes=null, or final_mlm_probability=null.",
    ),
    *(
        (
            key,
            _is_fraction_of_unknown(key),
            f"{{{key}}} is a fraction of max_steps, which is not set. Give a number of steps.",
        )
        for key in ("save_steps", "eval_steps", "logging_steps")
    ),
    (
        "init_optimizer",
        lambda v: v.init_optimizer == "kept" and not v.init_from,
        "kept requires init_from.",
    ),
    (
        "init_embeddings",
        lambda v: v.init_embeddings == "counted" and v.init_from,
        "counted is for a new model; init_from has trained embeddings. Set init_embeddings=random.",
    ),
    (
        "hub_model_id",
        lambda v: v.push_to_hub and not v.hub_model_id,
        "missing. Name the repository (ORG/NAME) that push_to_hub pushes to.",
    ),
    (
        "publish_steps",
        lambda v: v.publish_steps is not None and not v.push_to_hub,
        "it requires push_to_hub=true.",
    ),
    ("fp16", lambda v: v.bf16 and v.fp16, "bf16 is set as well. Set one of them."),
    (
        "bf16",
        lambda v: v.bf16 and not v.use_cpu and not is_torch_bf16_gpu_available(),
        "no GPU here supports it. Set bf16=false, or use_cpu=true.",
    ),
    (
        "validation_data",
        lambda v: plain_value(v.eval_strategy) != "no" and not v.validation_data,
        "missing. eval_strategy needs held-out text: name it, or set eval_strategy=no.",
    ),
    (
        "whole_word",
        lambda v: v.whole_word and importlib.util.find_spec("fugashi") is None,
        "needs a segmenter: pip install fugashi unidic-lite.",
    ),
)


def check(given: dict[str, Any]) -> None:
    """Checks the keys of a recipe, each by itself and together.

    Args:
        given: the keys that the recipe sets.

    Raises:
        UsageError: the first mistake, as one line that names the key.
    """
    for key, value in given.items():
        if value == _PLACEHOLDER:
            raise UsageError(f"{key}: missing. This recipe has no default for it. Give {key}=….")
        _check_type(key, value, _types()[key])
        if value and key in _UNSUPPORTED:
            raise UsageError(f"{key}: not supported in a recipe; {_UNSUPPORTED[key]}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{key}: {value} is not a finite number.")
    _check_ranges(given)
    values = SimpleNamespace(**{**default_values(), **given, "given": given.keys()})
    for key, choices in _CHOICES.items():
        check_known(plain_value(getattr(values, key)), choices, key, "value")
    for key, is_violated, message in CONFLICTS:
        if is_violated(values):
            raise UsageError(f"{key}: {message.format(**vars(values))}")
    for key in ("train_data", "validation_data"):
        _check_data(key, given.get(key) or [])
    _check_schedule(values)
    if values.model is not None:
        _check_model(values)


def short(value: Any) -> str:
    """A value as JSON, shortened to 80 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def _check_type(key: str, value: Any, expected: Any, where: str = "") -> None:
    # Integers are valid numbers, as in Python's type system; huggingface_hub accepts only instances.
    accepted = expected | int if float in (expected, *typing.get_args(expected)) else expected
    strict_class: Any = strict(make_dataclass("Recipe", [(key, accepted)]))
    try:
        strict_class(value)
    except StrictDataclassFieldValidationError as error:
        raise UsageError(f"{where or key}: {short(value)} is not {_described(expected)}.") from error


def _check_ranges(values: dict[str, Any], where: str = "{key}") -> None:
    for keys, is_valid, rule in RANGES:
        for key in keys.split():
            value = values.get(key)
            if value is not None and not is_valid(value):
                raise UsageError(f"{where.format(key=key)}: {value!r} is invalid; {rule}.")


@cache
def _types() -> dict[str, Any]:
    return typing.get_type_hints(PretrainingArguments)


def default_values() -> dict[str, Any]:
    """The default of every key."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(PretrainingArguments)
    }


def _described(expected: Any) -> str:
    """A type in words, such as "a number or a list (each an integer)"."""
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "a mapping"}
    union = typing.get_origin(expected) in (typing.Union, types.UnionType)
    described = []
    for member in typing.get_args(expected) if union else (expected,):
        origin, inner = typing.get_origin(member), typing.get_args(member)
        if origin is typing.Literal:
            described.append("one of " + ", ".join(map(str, inner)))
        elif origin is list:
            described.append(f"a list (each {_described(inner[0])})")
        elif isinstance(member, type) and issubclass(member, Enum):
            described.append("one of " + ", ".join(str(choice.value) for choice in member))
        elif member is not types.NoneType:
            described.append(names.get(origin or member, str(member)))
    return " or ".join(described)


def _check_data(key: str, data: Any) -> None:
    for entry in data if isinstance(data, list) else [data]:
        if not isinstance(entry, dict):
            continue
        for name, value in entry.items():
            check_known(name, _ENTRY_TYPES, key)
            _check_type(name, value, _ENTRY_TYPES[name], f"{key}: {name} of {entry.get('path')}")
        if not entry.get("path"):
            raise UsageError(f"{key}: an entry has no path.")
        _check_ranges(entry, f"{key}: {{key}} of {entry['path']}")
        if not math.isfinite(entry.get("weight", 1)):
            raise UsageError(f"{key}: weight of {entry['path']}: {entry['weight']} is not a finite number.")
        if entry.get("max_characters", math.inf) < entry.get("min_characters", 0):
            raise UsageError(f"{key}: max_characters of {entry['path']} is below its min_characters.")
        if key == "validation_data" and "weight" in entry:
            raise UsageError(f"{key}: {entry['path']} has a weight, but held-out text is not weighted. Remove it.")


def _check_schedule(values: SimpleNamespace) -> None:
    """Builds the learning-rate schedule, which transformers would check only after the data is loaded."""
    settings = values.lr_scheduler_kwargs or {}
    name = plain_value(values.lr_scheduler_type)
    schedule = Schedule(values.max_steps if values.max_steps > 0 else None, max_seconds=1.0)
    try:
        warmup = schedule.steps(values.warmup_steps)
        counts = {
            key: schedule.steps(settings[key]) for key in ("num_decay_steps", "num_stable_steps") if key in settings
        }
    except (ValueError, TypeError) as error:
        raise UsageError(f"warmup_steps{', lr_scheduler_kwargs' if settings else ''}: {error}") from error
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
