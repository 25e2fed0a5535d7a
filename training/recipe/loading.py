"""Recipes as YAML files: reading, resolving, writing and comparing them."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.terminal import ACCESS_TOKEN
from llm_jp_modernbert.core.yaml_files import parse_yaml, read_yaml

from .arguments import LaunchedArguments, PretrainingArguments
from .shapes import SHAPE, check_known
from .validation import check, check_launchable, without_effect
from .values import default_values, plain_value, short

Arguments = TypeVar("Arguments", bound=LaunchedArguments)

RECIPE = "recipe.yaml"
"""File name of the resolved recipe, in the run directory and in every checkpoint."""

logger = logging.getLogger(__name__)

_DEFAULTS = "\n# transformers' defaults\n"
_EXTENDS = "extends"
_FOLDER = Path(__file__).parents[1] / "recipes"
_KEYS = [field.name for field in fields(PretrainingArguments) if field.init]

# Keys that may differ between a run and its continuation: they decide where it runs and what it keeps and shows.
NOT_DECISIVE = {
    *("output_dir", "resume_from_checkpoint", "run_name", "project", "disable_tqdm", "report_to", "debug"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "log_level", "log_level_replica"),
    *("log_on_each_node", "logging_strategy", "logging_steps", "logging_first_step", "skip_memory_metrics"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "validation_data", "max_validation_tokens"),
    *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "keep_steps", "push_to_hub", "hub_token"),
    *("hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision", "publish_steps"),
    *("probe_steps", "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory"),
    *("dataloader_persistent_workers", "dataloader_multiprocessing_context", "dataloader_in_order"),
    *("local_rank", "ddp_backend", "ddp_timeout", "use_cpu", "max_skipped_steps", "strict", "do_train", "do_eval"),
    *("do_predict", "per_device_eval_batch_size", "torch_empty_cache_steps", "block_index"),
}
# How the rows of a step are divided among devices and batches; only their product affects the result.
_DIVISION = {"tokens_per_batch", "per_device_train_batch_size", "gradient_accumulation_steps"}
# Compiled layers and attention backends compute the same values, except for rounding.
_IMPLEMENTATION = {"attention", "torch_compile", "torch_compile_backend", "torch_compile_mode"}


def shipped() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> PretrainingArguments:
    """Reads a recipe and checks all of its keys.

    Args:
        recipe: name of a packaged recipe, or path of a YAML file.
        overrides: `key=value` pairs with YAML values; `model.num_hidden_layers=4` sets a key of a mapping, and
            `key=null` restores the default.

    Returns:
        The recipe, which is frozen.

    Raises:
        UsageError: the recipe does not exist, a key is unknown, a value is invalid, or keys conflict.

    Example:
        >>> load_recipe("nano", ["train_data=texts.jsonl.gz", "tokenizer=my-tokenizer", "output_dir=runs/nano"])
    """
    keys = {key: value for key, value in _read(recipe, []).items() if value is not None}
    for override in overrides:
        apply_override(keys, override, _KEYS)
    check(keys)
    arguments = construct(PretrainingArguments, keys, recipe)
    if arguments.process_index == 0:
        for line in without_effect(keys):
            logger.warning("%s", line)
    return arguments


def construct(arguments: type[Arguments], keys: Mapping[str, Any], place: str) -> Arguments:
    """Makes arguments of checked keys.

    Args:
        arguments: their class.
        keys: keys and their values.
        place: where the keys were given, for messages.

    Raises:
        UsageError: transformers rejects a value, or a package is missing.
    """
    try:
        constructed = arguments(**keys)
    except UsageError:
        raise
    except (ValueError, TypeError, ImportError, KeyError, OSError) as error:
        # Raised by transformers, such as for an unsupported accelerator_config.
        raise UsageError(f"{place}: {' '.join(str(error).split())}") from error
    check_launchable(constructed)
    return constructed


def render(recipe: PretrainingArguments) -> str:
    """The resolved recipe as YAML that `load_recipe` reads; hub_token is omitted.

    Our own keys and changed keys come first, then transformers' defaults.
    """
    values = plain_values(recipe)
    defaults, own = default_values(PretrainingArguments), PretrainingArguments.__annotations__
    first = {key: value for key, value in values.items() if key in own or value != plain_value(defaults[key])}
    rest = {key: value for key, value in values.items() if key not in first}
    return f"{_to_yaml(first)}{_DEFAULTS}{_to_yaml(rest)}"


def is_rendered(path: Path) -> bool:
    """Whether a file was written with `render`, and not by hand."""
    return _DEFAULTS in path.read_text(encoding="utf-8", errors="replace")


def decisive(recipe: PretrainingArguments) -> dict[str, Any]:
    """The keys that affect the trained weights, as JSON values."""
    return {key: value for key, value in plain_values(recipe).items() if key not in NOT_DECISIVE}


def fingerprint(recipe: PretrainingArguments) -> dict[str, Any]:
    """The keys that must not change when a run resumes, and the number of rows per step."""
    same = {key: value for key, value in decisive(recipe).items() if key not in _DIVISION | _IMPLEMENTATION}
    return {**same, "rows_per_step": recipe.rows_per_step}


def differences(saved: dict[str, Any], recipe: PretrainingArguments) -> list[str]:
    """Compares a recipe with the fingerprint of an earlier run.

    Args:
        saved: fingerprint of the earlier run. Keys that only one version of transformers knows are ignored.
        recipe: recipe of this run.

    Returns:
        One line per differing key.
    """
    return [
        f"{key}: {short(saved[key])} then, {short(value)} now"
        for key, value in fingerprint(recipe).items()
        if key in saved and saved[key] != value
    ]


def _read(recipe: str, extending: list[str]) -> dict[str, Any]:
    """Reads a YAML file on top of the recipe that it extends; `extending` lists the files that led here."""
    path = _FOLDER / f"{recipe}.yaml"
    if not path.is_file():
        path = Path(os.path.expanduser(recipe))
    if not path.is_file():
        raise UsageError(f"{recipe}: no such recipe or file. Packaged recipes: {', '.join(shipped())}.")
    if str(path) in extending:
        raise UsageError(f"{recipe}: {_EXTENDS} leads back to itself.")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: a recipe must be a mapping of keys to values.")
    base = content.pop(_EXTENDS, None)
    for key in content:
        check_known(key, _KEYS, str(path))
    if base is None:
        return content
    sibling = path.parent / str(base)
    return {**_read(str(sibling) if sibling.is_file() else str(base), [*extending, str(path)]), **content}


def apply_override(keys: dict[str, Any], override: str, known: Sequence[str]) -> None:
    """Applies `key=value` or `key.inner=value` to the keys.

    Args:
        keys: keys and their values; changed in place.
        override: the text; its value is YAML, and null restores the default.
        known: all keys.

    Raises:
        UsageError: it has no value, or the key is unknown.
    """
    name, equals, text = override.partition("=")
    if not equals:
        raise UsageError(f"{override}: give key=value.")
    value = parse_yaml(text, name)
    key, *inner = name.split(".")
    check_known(key, known, override)
    if not inner:
        keys[key] = value
        if value is None:
            del keys[key]
        return
    target = keys.get(key)
    target = {SHAPE: target} if key == "model" and isinstance(target, str) else dict(target or {})
    keys[key] = target
    for part in inner[:-1]:
        target[part] = dict(target.get(part) or {})
        target = target[part]
    target[inner[-1]] = value


def plain_values(arguments: LaunchedArguments) -> dict[str, Any]:
    """The keys of arguments as JSON values, without access tokens."""
    plain = {field.name: getattr(arguments, field.name) for field in fields(arguments) if field.init}
    # A secret.
    del plain["hub_token"]
    if isinstance(arguments, PretrainingArguments):
        # A recipe has no epochs.
        del plain["num_train_epochs"]
        # The number of rows follows from tokens_per_batch; a recipe must not set both.
        if arguments.tokens_per_batch is not None:
            del plain["per_device_train_batch_size"]
    text = json.dumps(plain, ensure_ascii=False, default=_to_json)
    values: dict[str, Any] = json.loads(re.sub(ACCESS_TOKEN, "hf_***", text))
    return values


def _to_json(value: Any) -> Any:
    # transformers converts accelerator_config to an AcceleratorConfig.
    return value.to_dict() if hasattr(value, "to_dict") else str(plain_value(value))


def _to_yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=119) if values else ""
