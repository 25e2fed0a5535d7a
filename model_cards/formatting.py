"""Escaped Markdown, and numbers in a readable form."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import Any

_SPECIAL = re.compile(r"[\\`*_\[\]|~$#]")
_PIPE = re.compile(r"(?<!\\)\|")
# Markdown renderers turn bare addresses into links.
_AUTOLINK = re.compile(r"(https?|ftp)(?=:)|www(?=\.)", re.IGNORECASE)


class Markdown(str):
    """Text that is already Markdown and is not escaped again."""


def text(value: Any) -> Markdown:
    """Escape a value for running text or a table cell, on one line."""
    if isinstance(value, Markdown):
        return value
    return _without_links(_SPECIAL.sub(lambda match: f"\\{match[0]}", html.escape(_one_line(value), quote=False)))


def html_text(value: Any) -> Markdown:
    """Escape a value inside an HTML tag, where Markdown escapes would be visible."""
    return _without_links(html.escape(_one_line(value)))


def code(value: Any) -> Markdown:
    """Format a value as a code span."""
    line = _one_line(value)
    if not line:
        return Markdown("")
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return Markdown(f"{ticks}{space}{line}{space}{ticks}")


def literal(value: Any) -> Markdown:
    """Format a value as a Python string literal; JSON strings are valid Python."""
    return Markdown(json.dumps(str(value), ensure_ascii=False))


def fence(content: str, language: str) -> Markdown:
    """Format a fenced code block."""
    marks = "`" * max(3, 1 + max(map(len, re.findall("`+", content)), default=0))
    return Markdown(f"{marks}{language}\n{content.rstrip()}\n{marks}")


def target(address: str) -> Markdown:
    """Escape the target of a link or image: a path in the release or a URL."""
    quoted = address.replace("%", "%25").replace("<", "%3C").replace(">", "%3E").replace("\n", "%0A")
    return Markdown(f"<{quoted}>" if re.search(r"[\s()]", quoted) else quoted)


def table(heads: Sequence[Any], rows: Sequence[Sequence[Any]], numbers: int = 0) -> Markdown:
    """Format a table without its empty columns.

    Args:
        heads: column headings.
        rows: cells; None and "" are empty.
        numbers: how many of the last columns hold numbers and are right-aligned.
    """
    kept = [column for column in range(len(heads)) if any(row[column] not in (None, "") for row in rows)]
    lines = [
        # Cells are split before code spans are parsed.
        [_PIPE.sub(r"\|", text("" if line[column] is None else line[column])) for column in kept]
        for line in (heads, *rows)
    ]
    lines.insert(1, [Markdown("---:" if column >= len(heads) - numbers else "---") for column in kept])
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def in_words(count: float) -> str:
    """Round a count to three digits: `187 million`; exact below a million."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count:,.0f}" if count >= 100 or count == int(count) else f"{count:.2g}"


def in_japanese(count: float) -> str:
    """Round a count to three digits with 万, 億 and 兆: `1.87億`."""
    for size, word in ((1e12, "兆"), (1e8, "億"), (1e4, "万")):
        if count >= size:
            return f"{count / size:,.0f}{word}" if count >= 100 * size else f"{count / size:.3g}{word}"
    return f"{count:,.0f}"


def duration(seconds: float) -> str:
    """Format a duration: `45 s`, `7.3 min`, `3.2 h` or `4.1 days`."""
    for size, word in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {word}"
    return f"{seconds:.0f} s"


def percent(share: float) -> str:
    """Format a share: `30%` or `2.5%`."""
    return f"{round(100 * share, 4):g}%"


def number(value: Any) -> str:
    """Format a value of a recipe or configuration; whole numbers get thousands separators."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return f"{int(value):,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())


def _without_links(escaped: str) -> Markdown:
    # An empty comment inside an address keeps renderers from linking it.
    return Markdown(_AUTOLINK.sub(lambda match: f"{match[0][:-1]}<!-- -->{match[0][-1]}", escaped))
