"""Checks of a recipe's keys, before any data or model is loaded.

Types come from the annotations of the arguments; `RANGES`, `CONFLICTS` and `SHARED_CONFLICTS` list all other rules.
`check_keys` is for the keys of any training, `check` for those of pre-training.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, make_dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin, GradientAccumulationPlugin, parse_flag_from_env
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import SchedulerType, Trainer, get_scheduler
from transformers.trainer_utils import HubStrategy
from transformers.training_args import OptimizerNames, trainer_log_levels
from transformers.utils.import_utils import is_torch_bf16_gpu_available

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.references import is_repository
from llm_jp_modernbert.modeling.attention_backends import BACKENDS
from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

from .arguments import (
    ATTENTION_LAYERS,
    MUON,
    OWN_OPTIMIZERS,
    SPECIAL_TOKENS_PER_PIECE,
    LaunchedArguments,
    PretrainingArguments,
)
from .schedule import STEP_COUNTS, Schedule
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
    "label_smoothing_factor": "the loss is that of the masked tokens alone",
    "use_liger_kernel": "the model has its own loss, which needs no matrix of logits",
}

# Keys of fsdp_config that accelerate's plugin does not have.
_FSDP_KEYS = {
    *("version", "transformer_layer_cls_to_wrap", "xla", "xla_fsdp_v2", "xla_fsdp_grad_ckpt", "xla_fsdp_settings"),
}

# Keys that change nothing unless something else is set: what that is, and whether it is set.
_CONDITIONS: tuple[tuple[str, str, Callable[[Any], object]], ...] = (
    (
        "per_device_eval_batch_size eval_accumulation_steps eval_do_concat_batches eval_use_gather_object "
        "prediction_loss_only include_for_metrics batch_eval_metrics bf16_full_eval fp16_full_eval",
        "in pre-training, which measures held-out text in rows of sequence_length",
        lambda v: False,
    ),
    (
        "data_seed dataloader_drop_last dataloader_persistent_workers dataloader_multiprocessing_context "
        "dataloader_in_order label_names train_sampling_strategy length_column_name",
        "in pre-training, whose batches follow seed, shuffle and dataloader_num_workers",
        lambda v: False,
    ),
    (
        "hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision",
        "without push_to_hub=true",
        lambda v: v.push_to_hub,
    ),
    ("push_to_hub", "without save_strategy=steps", lambda v: plain_value(v.save_strategy) != "no" or v.publish_steps),
    (
        "metric_for_best_model greater_is_better",
        "without lr_scheduler_type=reduce_lr_on_plateau",
        lambda v: plain_value(v.lr_scheduler_type) in ("reduce_lr_on_plateau", "greedy"),
    ),
    ("eval_delay", "without eval_strategy=steps", lambda v: plain_value(v.eval_strategy) != "no"),
    ("gradient_checkpointing_kwargs", "without gradient_checkpointing=true", lambda v: v.gradient_checkpointing),
    ("activation_checkpointing_kwargs", "without activation_checkpointing=true", lambda v: v.activation_checkpointing),
    ("fsdp_config", "without fsdp", lambda v: v.fsdp),
    (
        "eval_steps",
        "without eval_strategy=steps",
        lambda v: plain_value(v.eval_strategy) != "no" or not v.validation_data,
    ),
    ("interleave balance_attention", "without shuffle=true", lambda v: v.shuffle),
    ("decay_norms_and_biases", "without weight_decay", lambda v: v.weight_decay),
    (
        "optim_target_modules",
        "without an optim of GaLore or APOLLO",
        lambda v: plain_value(v.optim).startswith(("galore", "apollo")),
    ),
    (
        "trackio_space_id trackio_bucket_id trackio_static_space_id project",
        "without report_to=trackio",
        lambda v: {"trackio", "all"} & {*([v.report_to] if isinstance(v.report_to, str) else v.report_to or ())},
    ),
)

_ENTRY_TYPES: dict[str, Any] = {
    **dict.fromkeys(("path", "name", "split", "revision", "text_column"), str),
    "weight": float,
    **dict.fromkeys(("min_characters", "max_characters"), int),
}


def plain_value(value: Any) -> Any:
    """The value of an enum member; other values unchanged."""
    return value.value if isinstance(value, Enum) else value


# Values of keys whose type is not precise.
_CHOICES: dict[str, list[str]] = {
    "optim": [member.value for member in OptimizerNames],
    "lr_scheduler_type": [member.value for member in SchedulerType],
    "hub_strategy": [member.value for member in HubStrategy],
    **{key: list(trainer_log_levels) for key in ("log_level", "log_level_replica")},
    "torch_compile_mode": ["default", "lite", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"],
}

# Transformers accepts more strategies, but a stream of batches has no epochs and no best checkpoint.
_PRETRAINING_CHOICES: dict[str, list[str]] = {
    **{key: ["no", "steps"] for key in ("eval_strategy", "logging_strategy", "save_strategy")},
    "optim": [*_CHOICES["optim"], MUON],
    "metric_for_best_model": ["loss", "eval_loss", "masked_accuracy", "eval_masked_accuracy"],
}


def _is_repository(name: str) -> bool:
    # Without an organization, the user's is meant.
    return is_repository(name if "/" in name else f"user/{name}")


def _is_interval(value: float) -> bool:
    return 0 < value < 1 or (value >= 1 and value == int(value))


# Above it, a batch, or the state of all lanes or workers, would not fit into memory.
_MOST = 1_000_000

# Rules for single values: keys, whether a value is valid, and the rule as it ends the message.
RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("stage", lambda value: bool(re.fullmatch(r"[\w.-]+", value)), "use letters, digits, '.', '_' and '-'"),
    ("hub_model_id", _is_repository, "name a repository, ORG/NAME"),
    (
        "max_tokens max_minutes num_train_epochs learning_rate block_characters max_validation_tokens weight",
        lambda value: value > 0,
        "it must be above 0",
    ),
    (
        "batch_warmup_steps max_skipped_steps weight_decay min_characters max_characters adam_epsilon max_grad_norm "
        "eval_delay neftune_noise_alpha",
        lambda value: value >= 0,
        "it must not be negative",
    ),
    ("save_total_limit", lambda value: value >= 0, "it must be at least 1, or 0 to keep all checkpoints"),
    ("max_steps", lambda value: value == -1 or value >= 1, "it must be at least 1"),
    (
        "per_device_train_batch_size gradient_accumulation_steps interleave data_lanes per_device_eval_batch_size",
        lambda value: 1 <= value <= _MOST,
        f"it must be between 1 and {_MOST:,}",
    ),
    (
        "eval_accumulation_steps torch_empty_cache_steps dataloader_prefetch_factor ddp_timeout ddp_bucket_cap_mb",
        lambda value: value >= 1,
        "it must be at least 1",
    ),
    ("dataloader_num_workers", lambda value: 0 <= value <= 1000, "it must be between 0 and 1,000"),
    ("seed data_seed", lambda value: 0 <= value < 2**32, "it must be between 0 and 4,294,967,295"),
    ("adam_beta1 adam_beta2", lambda value: 0 <= value < 1, "it must be at least 0 and below 1"),
    (
        "save_steps eval_steps logging_steps",
        _is_interval,
        "it must be a whole number of steps, or a fraction of the run below 1",
    ),
    (
        "warmup_steps",
        lambda value: value == 0 or _is_interval(value),
        "it must be a whole number of steps, or a fraction of the run below 1",
    ),
    ("keep_steps publish_steps probe_steps", lambda steps: min(steps, default=0) >= 0, "steps count from 0"),
    (
        "mlm_probability final_mlm_probability",
        lambda value: 0 < value <= 1,
        "a fraction of tokens must be above 0 and at most 1",
    ),
    (
        "norm_eps initializer_range initializer_cutoff_factor global_rope_theta local_rope_theta",
        lambda value: value > 0,
        "it must be above 0",
    ),
    (
        "embedding_dropout attention_dropout mlp_dropout classifier_dropout",
        lambda value: 0 <= value < 1,
        "a probability must be at least 0 and below 1",
    ),
    ("mask_share random_share", lambda value: 0 <= value <= 1, "a fraction must be between 0 and 1"),
    ("sequence_length", lambda value: value > SPECIAL_TOKENS_PER_PIECE, "a row must hold a token, CLS and SEP"),
)


def _is_fraction_of_unknown(key: str) -> Callable[[Any], object]:
    return lambda v: v.max_steps <= 0 and 0 < (getattr(v, key) or 0) < 1


# Rules for several values: the key at fault, whether the values violate the rule, and the message, a format string of
# the values. Values are attributes; `given` holds the keys that the recipe sets.
Conflicts = tuple[tuple[str, Callable[[Any], object], str], ...]

SHARED_CONFLICTS: Conflicts = (
    ("fp16", lambda v: v.bf16 and v.fp16, "bf16 is set as well. Set one of them."),
    (
        "bf16",
        lambda v: v.bf16 and not v.use_cpu and not is_torch_bf16_gpu_available(),
        "no GPU here supports it. Set bf16=false, or use_cpu=true.",
    ),
    (
        "fp16",
        lambda v: (
            v.fp16 and (v.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
        ),
        "it needs a GPU. On a CPU, set bf16=true and use_cpu=true, or fp16=false.",
    ),
    (
        "torch_compile_backend",
        lambda v: (
            v.torch_compile_backend and v.torch_compile_backend not in torch.compiler.list_backends(exclude_tags=())
        ),
        "unknown backend {torch_compile_backend!r}. torch.compiler.list_backends() lists them.",
    ),
)

CONFLICTS: Conflicts = (
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
    (
        "validation_data",
        lambda v: plain_value(v.eval_strategy) != "no" and not v.validation_data,
        "missing. eval_strategy needs held-out text: name it, or set eval_strategy=no.",
    ),
    (
        "validation_data",
        lambda v: v.eval_on_start and not v.validation_data,
        "missing. eval_on_start needs held-out text: name it, or set eval_on_start=false.",
    ),
    (
        "ignore_data_skip",
        lambda v: not v.ignore_data_skip,
        "false is not supported: a resumed run already continues at the right batch. Set it to null.",
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
    values = check_keys(
        given, PretrainingArguments, _UNSUPPORTED, _PRETRAINING_CHOICES, (*CONFLICTS, *SHARED_CONFLICTS)
    )
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
        _check_type(key, value, expected[key])
        if value and key in unsupported:
            raise UsageError(f"{key}: not supported; {unsupported[key]}.")
        _check_finite(key, value)
    _check_ranges(given)
    values = SimpleNamespace(**{**default_values(arguments), **given, "given": given.keys()})
    for key, accepted in {**_CHOICES, **choices}.items():
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
        for keys, condition, is_met in _CONDITIONS
        for key in keys.split()
        if key in changed and not is_met(values)
    ]


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


def _check_finite(key: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{key}: {value} is not a finite number.")
    for name, inner in value.items() if isinstance(value, dict) else ():
        _check_finite(f"{key}.{name}", inner)
    for inner in value if isinstance(value, list) else ():
        _check_finite(key, inner)


def _check_ranges(values: Mapping[str, Any], where: str = "{key}") -> None:
    for keys, is_valid, rule in RANGES:
        for key in keys.split():
            value = values.get(key)
            if value is not None and not is_valid(value):
                raise UsageError(f"{where.format(key=key)}: {value!r} is invalid; {rule}.")


def default_values(arguments: type[LaunchedArguments]) -> dict[str, Any]:
    """The default of every key."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(arguments)
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
