"""Recipes: YAML files whose keys are the fields of `PretrainingArguments`."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from llm_jp_modernbert.core.errors import UsageError

from .arguments import PretrainingArguments, check

RECIPE = "recipe.yaml"
"""File name of the resolved recipe, in the run directory and in every checkpoint."""

EXTENDS = "extends"
"""The key that names the recipe on top of which another is read."""

FOLDER = Path(__file__).parents[1] / "recipes"

# Keys that do not decide what is trained, but where it is kept, seen and computed.
_FREE = {
    *("output_dir", "resume_from_checkpoint", "run_name", "project", "disable_tqdm", "report_to", "debug"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "log_level", "log_level_replica"),
    *("log_on_each_node", "logging_strategy", "logging_steps", "logging_first_step", "skip_memory_metrics"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "validation_data", "max_validation_tokens"),
    *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "keep_steps", "push_to_hub", "hub_token"),
    *("hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision", "publish_steps"),
    *("probe_steps", "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory"),
    *("dataloader_persistent_workers", "dataloader_multiprocessing_context", "dataloader_in_order"),
    *("local_rank", "ddp_backend", "ddp_timeout", "use_cpu", "max_skipped_steps", "strict", "do_train", "do_eval"),
    *("do_predict", "per_device_eval_batch_size", "torch_empty_cache_steps"),
}
# How the rows of a step are shared among devices and batches; only their number decides what is trained.
_SHARING = {"tokens_per_batch", "per_device_train_batch_size", "gradient_accumulation_steps"}
# Not written down: a secret, and what a recipe refuses, since a stream has no length.
_UNWRITTEN = {"hub_token", "num_train_epochs"}


class _Loader(yaml.SafeLoader):
    """Reads truth values and numbers as YAML 1.2 has them: `no` is a word and `5e-4` a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?i:true|false)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(?i:inf)|\.(?i:nan))$"),
    list("-+.0123456789"),
)


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> PretrainingArguments:
    """Reads a recipe and checks all of it before anything else is done.

    Args:
        recipe: a shipped name, or the path of a YAML file.
        overrides: `key=value`, the value as YAML; `model.num_hidden_layers=4` sets a key within a mapping.

    Raises:
        UsageError: no such recipe, an unknown key, a value of the wrong type, or keys that do not go together.
    """
    given = {key: value for key, value in _read(recipe, []).items() if value is not None}
    for override in overrides:
        _override(given, override)
    for key, value in given.items():
        given[key] = _typed(key, value)
    check(given)
    try:
        return PretrainingArguments(**given)
    except (ValueError, TypeError, ImportError, KeyError) as error:
        # What transformers itself finds impossible, such as bf16 where there is none.
        raise UsageError(f"{recipe}: {' '.join(str(error).split())}") from error


def given_keys(recipe: str, overrides: Sequence[str] = ()) -> list[str]:
    """The keys that a recipe and its overrides name, in their order."""
    given = dict(_read(recipe, []))
    for override in overrides:
        given.setdefault(override.partition("=")[0].partition(".")[0])
    return list(given)


def render(arguments: PretrainingArguments) -> str:
    """A resolved recipe as YAML, which `load_recipe` reads back: first what differs from the defaults, then the rest.

    No token is part of it.
    """
    values = _values(arguments)
    defaults = {member.name: _default(member) for member in fields(PretrainingArguments)}
    own = set(PretrainingArguments.__annotations__)
    first = {name: value for name, value in values.items() if name in own or value != defaults[name]}
    rest = {name: value for name, value in values.items() if name not in first}
    return f"{_yaml(first)}\n# transformers' defaults\n{_yaml(rest)}"


def decisive(arguments: PretrainingArguments) -> dict[str, Any]:
    """The keys that decide what is trained, as plain values."""
    return {name: value for name, value in _values(arguments).items() if name not in _FREE}


def fingerprint(arguments: PretrainingArguments) -> dict[str, Any]:
    """What two runs that train the same have in common: the keys that decide, and the rows of a step."""
    alike = {name: value for name, value in decisive(arguments).items() if name not in _SHARING}
    return {**alike, "rows_per_step": arguments.rows_per_step}


def differences(saved: dict[str, Any], arguments: PretrainingArguments) -> list[str]:
    """What is trained otherwise than by a saved fingerprint, a line per key.

    Args:
        saved: of an earlier run. Keys that only one of two versions of transformers knows do not count.
        arguments: of this run.
    """
    now = fingerprint(arguments)
    return [
        f"{key}: {_short(saved[key])} then, {_short(now[key])} now"
        for key in now
        if key in saved and saved[key] != now[key]
    ]


def _read(recipe: str, above: list[str]) -> dict[str, Any]:
    path = FOLDER / f"{recipe}.yaml"
    if not path.is_file():
        path = Path(recipe).expanduser()
    if not path.is_file():
        raise UsageError(f"{recipe}: no recipe of that name or file. There are {', '.join(shipped())}.")
    if str(path) in above:
        raise UsageError(f"{recipe}: {EXTENDS} leads back to itself.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: a recipe is a mapping of keys to values.")
    below = content.pop(EXTENDS, None)
    for key in content:
        _known(key, str(path))
    if below is None:
        return content
    below = str(below)
    beside = path.parent / below
    return {**_read(str(beside) if beside.is_file() else below, [*above, str(path)]), **content}


def _override(given: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise UsageError(f"{override}: give key=value.")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: {text!r} is no YAML value.") from error
    key, *inner = name.split(".")
    _known(key, override)
    if not inner:
        if value is None:
            given.pop(key, None)
        else:
            given[key] = value
        return
    target = given.get(key)
    # A shape's name is short for a mapping that holds nothing else.
    target = {"shape": target} if key == "model" and isinstance(target, str) else dict(target or {})
    given[key] = target
    for part in inner[:-1]:
        target[part] = dict(target.get(part) or {})
        target = target[part]
    target[inner[-1]] = value


def _known(key: Any, where: str) -> None:
    names = [member.name for member in fields(PretrainingArguments) if member.init]
    if key not in names:
        close = difflib.get_close_matches(str(key), names, 1)
        raise UsageError(f"{where}: unknown key {key!r}{f'; did you mean {close[0]}?' if close else '.'}")


def _typed(key: str, value: Any) -> Any:
    expected = _types()[key]
    if not _fits(value, expected):
        raise UsageError(f"{key}: {_short(value)} is not {_described(expected)}.")
    return value


@cache
def _types() -> dict[str, Any]:
    return typing.get_type_hints(PretrainingArguments)


def _members(expected: Any) -> tuple[Any, ...]:
    union = typing.get_origin(expected) in (typing.Union, types.UnionType)
    return typing.get_args(expected) if union else (expected,)


def _fits(value: Any, expected: Any) -> bool:
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in inner)
    if origin is typing.Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, inner[1]) for item in value.values())
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(expected, type) and issubclass(expected, Enum):
        return value in [member.value for member in expected]
    return isinstance(value, expected)


def _described(expected: Any) -> str:
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "nothing"}
    described = []
    for member in _members(expected):
        origin, inner = typing.get_origin(member), typing.get_args(member)
        if origin is typing.Literal:
            described.append("one of " + ", ".join(map(str, inner)))
        elif origin is list:
            described.append(f"a list (each {_described(inner[0])})")
        elif origin is dict or member is dict:
            described.append("a mapping")
        elif isinstance(member, type) and issubclass(member, Enum):
            described.append("one of " + ", ".join(str(choice.value) for choice in member))
        else:
            described.append(names.get(member, str(member)))
    return " or ".join(text for text in described if text != "nothing")


def _values(arguments: PretrainingArguments) -> dict[str, Any]:
    plain = {
        member.name: getattr(arguments, member.name)
        for member in fields(PretrainingArguments)
        if member.init and member.name not in _UNWRITTEN
    }
    # Rows follow from the tokens; a recipe that names both is refused.
    if arguments.tokens_per_batch is not None:
        del plain["per_device_train_batch_size"]
    values: dict[str, Any] = json.loads(json.dumps(plain, ensure_ascii=False, default=_plain))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    # AcceleratorConfig, which transformers makes of what it is given.
    return value.to_dict() if hasattr(value, "to_dict") else str(value)


def _default(member: Any) -> Any:
    default = member.default_factory() if callable(member.default_factory) else member.default
    return default.value if isinstance(default, Enum) else default


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=119) if values else ""


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"
