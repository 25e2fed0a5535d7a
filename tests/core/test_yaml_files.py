"""YAML of a few hundred bytes that would fill the memory is rejected; documents that people write are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.yaml_files import parse_yaml, read_yaml

# Nine aliases of nine aliases, eleven times: 3 × 10¹⁰ values.
_BOMB = "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_BOMB, "values"),
        (_BOMB.replace("[*", "{<<: [*").replace("]\na", "]}\na").replace("[x]}", "{x: 1}") + "}", "values"),
        ("a: &a [*a]", "its own alias"),
        ("a: &a {b: *a}", "its own alias"),
        ("[" * 100_000, "levels"),
        ("{a: " * 1000, "levels"),
        ("- " * 1000 + "x", "levels"),
        ("[" + "a," * 200_000 + "]", "values"),
        ("x" * 2_000_000, "characters"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' occurs twice"),
        ("a: " + "9" * 5000, "digits"),
        ("a: !!timestamp 2026-13-45", "month"),
        ("!!python/object/apply:os.system [ls]", "constructor"),
        ("a: \x1b[31m", "characters are not allowed"),
    ],
    ids=lambda value: value[:20],
)
def test_hostile_or_ambiguous_document_raises_one_line(content: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        parse_yaml(content, "README.md")
    message = str(raised.value)
    assert message.startswith("README.md: ")
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize("name", ["&base {a: 1, b: 2}", "&base\n  a: 1\n  b: 2"])
def test_harmless_aliases_are_read_as_by_pyyaml(name: str) -> None:
    content = f"base: {name}\nother:\n  <<: *base\n  b: 3\nlist: [*base, *base]\n"
    assert parse_yaml(content, "x") == yaml.safe_load(content)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("no", "no"), ("on", "on"), ("true", True), ("False", False), ("2026-01-31", "2026-01-31")),
        *(("5e-4", 5e-4), ("1e3", 1000.0), (".inf", math.inf), ("12:30", "12:30"), ("0x1f", 31), ("-7", -7)),
        *(("null", None), ("~", None), ("日本語", "日本語"), ("'1'", "1")),
    ],
)
def test_scalars_are_read_as_in_yaml_1_2(text: str, value: Any) -> None:
    assert parse_yaml(text, "x") == value


def test_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes("stage: 猫".encode("shift_jis"))
    with pytest.raises(UsageError, match=r"recipe\.yaml: not UTF-8"):
        read_yaml(path)
