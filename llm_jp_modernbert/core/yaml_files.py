"""The reader of all YAML: recipes and the metadata of model cards, whose size and depth it bounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from .errors import UsageError

_MAX_BYTES = 1 << 20
# Values after the expansion of aliases, with which a few hundred bytes can describe billions.
_MAX_VALUES = 100_000
_MAX_DEPTH = 32


class _Loader(yaml.SafeLoader):
    """Reads booleans, numbers and dates as YAML 1.2 does: `no` and `2026-01-31` are strings, `5e-4` is a number."""

    def __init__(self, content: str) -> None:
        super().__init__(content)
        self._depth = self._values = 0
        self._values_of: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Counts values and levels; an alias counts as a copy of its anchor."""
        start, is_alias = self.peek_event(), self.check_event(yaml.AliasEvent)
        before = self._values
        self._depth += 1
        self._values += 1
        if self._depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"more than {_MAX_DEPTH} levels", start.start_mark)
        node = super().compose_node(parent, index)
        if is_alias and id(node) not in self._values_of:
            raise yaml.MarkedYAMLError(None, None, "the anchor contains its own alias", start.start_mark)
        self._values += self._values_of[id(node)] if is_alias else 0
        if self._values > _MAX_VALUES:
            raise yaml.MarkedYAMLError(None, None, f"more than {_MAX_VALUES:,} values", start.start_mark)
        self._depth -= 1
        self._values_of.setdefault(id(node), self._values - before)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Rejects a key that occurs twice: PyYAML would drop the first value."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise yaml.MarkedYAMLError(None, None, f"the key {key.value!r} occurs twice", key.start_mark)
            keys.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


_REPLACED = ("bool", "int", "float", "timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"^(?i:true|false)$", "tTfF"),
    ("int", r"^[-+]?(0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$", "-+0123456789"),
    ("float", r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(?i:inf)|\.(?i:nan))$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def parse_yaml(content: str, source: str) -> Any:
    """Parses a YAML document.

    Args:
        content: the document.
        source: where it comes from, such as a file name; the start of an error message.

    Raises:
        UsageError: it is invalid or ambiguous, or larger or more deeply nested than a file written by a person.
    """
    if len(content) > _MAX_BYTES:
        raise UsageError(f"{source}: more than {_MAX_BYTES:,} characters of YAML. Shorten it.")
    try:
        return yaml.load(content, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}"
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UsageError(f"{source}: invalid YAML{place}: {reason}.") from error


def read_yaml(path: Path) -> Any:
    """Parses a YAML file; see `parse_yaml`."""
    try:
        with path.open("rb") as file:
            return parse_yaml(file.read(_MAX_BYTES + 1).decode(), str(path))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8. Save it as UTF-8.") from error
