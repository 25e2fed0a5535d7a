"""The `TrainingArguments` of fine-tuning: defaults, and the keys that a user gives as `key=value`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from llm_jp_modernbert.core.errors import UsageError

from ..recipe.arguments import LaunchedArguments
from ..recipe.loading import apply_override, construct
from ..recipe.schedule import Schedule
from ..recipe.validation import check_keys, check_schedule, check_trackers
from .options import FinetuneOptions

Arguments = TypeVar("Arguments", bound=LaunchedArguments)

logger = logging.getLogger(__name__)

# Adapters have few parameters, which start from zero.
_LORA_LEARNING_RATE = 3e-4

# The number of steps of an epoch is unknown before the data is read.
_UNKNOWN_STEPS = 10**12

# Keys that an option of the command replaces.
_OPTIONS = {"output_dir": "--out", "seed": "--seed"}

UNSUPPORTED = {
    "load_best_model_at_end": "the best epoch is always kept",
    "resume_from_checkpoint": "a rerun of the same command continues",
    "ignore_data_skip": "a rerun continues at the right example",
    "save_only_model": "a rerun could not continue",
    "save_on_each_node": "a checkpoint is on a disk that all nodes share",
    "enable_jit_checkpoint": "SIGTERM and SIGUSR1 always save a checkpoint",
    "auto_find_batch_size": "--tokens-per-batch limits the memory without changing the result",
    "push_to_hub": "publish the finished model with llm-jp-modernbert release",
    "deepspeed": "accelerate launch trains on several GPUs",
    "fsdp": "accelerate launch trains on several GPUs",
    "torch_compile": "batches have documents of changing lengths",
    "use_liger_kernel": "the loss is computed from the logits of the head",
    "remove_unused_columns": "columns are chosen by options such as --text-column",
}

CHOICES = {
    **{key: ["no", "steps", "epoch"] for key in ("eval_strategy", "logging_strategy", "save_strategy")},
    "train_sampling_strategy": ["random", "sequential"],
}

# Keys of evaluation by `Trainer`, whose place `HeadTask.scores` takes, and of what `FinetuningTrainer` decides.
WITHOUT_EFFECT = {
    *("per_device_eval_batch_size", "prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object"),
    *("eval_accumulation_steps", "include_for_metrics", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval"),
    *("label_names", "length_column_name", "average_tokens_across_devices", "do_train", "do_eval", "do_predict"),
    "include_num_input_tokens_seen",
    *("hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
}


@dataclass
class FinetuningArguments(LaunchedArguments):
    """`TrainingArguments` with the defaults of fine-tuning."""

    learning_rate: float = 5e-5
    num_train_epochs: float = 5
    per_device_train_batch_size: int = 32
    warmup_steps: float = 0.1
    weight_decay: float = 0.01
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 1
    logging_steps: float = 0.02
    logging_nan_inf_filter: bool = False
    remove_unused_columns: bool = False
    report_to: str | list[str] | None = "none"
    disable_tqdm: bool | None = True
    # Every parameter has a gradient in every batch; searching for unused ones costs a pass over the graph.
    ddp_find_unused_parameters: bool | None = False


def finetuning_arguments(options: FinetuneOptions, output_dir: Path, seed: int) -> FinetuningArguments:
    """The arguments of one training.

    Args:
        options: options of the command; `overrides` are `key=value` with YAML values.
        output_dir: directory of the checkpoints.
        seed: seed of this training.

    Raises:
        UsageError: a key is unknown, not supported or invalid.

    Example:
        >>> finetuning_arguments(FinetuneOptions("ner", "my-model", ["learning_rate=3e-5"]), Path("run"), seed=42)
    """
    defaults = {"learning_rate": _LORA_LEARNING_RATE} if options.lora else {}
    return arguments_of(FinetuningArguments, options.overrides, output_dir, seed, defaults)


def arguments_of(
    arguments: type[Arguments],
    overrides: Sequence[str],
    output_dir: Path,
    seed: int,
    defaults: Mapping[str, Any],
    unsupported: Mapping[str, str] = UNSUPPORTED,
    choices: Mapping[str, list[str]] = CHOICES,
    without_effect: Collection[str] = WITHOUT_EFFECT,
) -> Arguments:
    """Arguments from the `key=value` of a command.

    bfloat16 is used on GPUs that support it, with weights in float32, unless `bf16` or `fp16` is given.

    Args:
        arguments: their class, with its defaults.
        overrides: `key=value` with YAML values.
        output_dir: directory of the checkpoints.
        seed: seed of the training.
        defaults: further defaults.
        unsupported: keys that cannot be set, and what to do instead.
        choices: keys, and the values that they accept.
        without_effect: keys that change nothing.

    Raises:
        UsageError: a key is unknown, not supported or invalid.
    """
    given: dict[str, Any] = dict(defaults)
    names = [field.name for field in fields(arguments) if field.init]
    for override in overrides:
        if "=" not in override:
            raise UsageError(f"{override}: give key=value. For several files, repeat the option: --train A --train B.")
        apply_override(given, override, names)
    for key, option in _OPTIONS.items():
        if key in given:
            raise UsageError(f"{key}: use {option} instead.")
    values = check_keys(given, arguments, unsupported, choices)
    check_schedule(values, Schedule(values.max_steps if values.max_steps > 0 else _UNKNOWN_STEPS))
    if not {"bf16", "fp16"} & given.keys():
        has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        given["bf16"] = has_bfloat16 and not given.get("use_cpu")
    keys = {**given, "output_dir": str(output_dir), "seed": seed}
    constructed = construct(arguments, keys, "key=value")
    check_trackers(constructed)
    if constructed.process_index == 0:
        for key in sorted({*without_effect} & given.keys()):
            _warn_once(key)
    return constructed


@cache
def _warn_once(key: str) -> None:
    """Warns about a key, but not again for the arguments of another seed."""
    logger.warning("%s has no effect in this training.", key)
