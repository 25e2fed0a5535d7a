"""Values of the keys of a recipe, and the types that the annotations of the arguments give them."""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import MISSING, fields, make_dataclass
from enum import Enum
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError

from llm_jp_modernbert.core.errors import UsageError

from .arguments import LaunchedArguments


def plain_value(value: Any) -> Any:
    """The value of an enum member; other values unchanged."""
    return value.value if isinstance(value, Enum) else value


def default_values(arguments: type[LaunchedArguments]) -> dict[str, Any]:
    """The default of every key."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(arguments)
    }


def short(value: Any) -> str:
    """A value as JSON, shortened to 80 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def check_type(key: str, value: Any, expected: Any, where: str = "") -> None:
    """Checks the type of a value.

    Args:
        key: name of the value.
        value: the value.
        expected: its type annotation.
        where: place of the value in a message; the key by default.

    Raises:
        UsageError: the value has another type.
    """
    # Integers are valid numbers, as in Python's type system; huggingface_hub accepts only instances.
    accepted = expected | int if float in (expected, *typing.get_args(expected)) else expected
    strict_class: Any = strict(make_dataclass("Recipe", [(key, accepted)]))
    try:
        strict_class(value)
    except StrictDataclassFieldValidationError as error:
        raise UsageError(f"{where or key}: {short(value)} is not {_described(expected)}.") from error


def check_finite(key: str, value: Any) -> None:
    """Checks that all numbers in a value are finite.

    Raises:
        UsageError: one is not.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{key}: {value} is not a finite number.")
    for name, inner in value.items() if isinstance(value, dict) else ():
        check_finite(f"{key}.{name}", inner)
    for inner in value if isinstance(value, list) else ():
        check_finite(key, inner)


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
