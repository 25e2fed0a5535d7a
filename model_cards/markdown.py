"""Text from elsewhere as Markdown that shows it and does nothing else."""

from __future__ import annotations

import html
import json
import re
from typing import Any


class Markdown(str):
    """Text that is Markdown already; all other text is escaped where a card shows it."""


_SPECIAL = re.compile(r"[\\`*_\[\]|~$#]")
# What a Markdown renderer makes a link of by itself.
_AUTOLINK = re.compile(r"(https?|ftp)(?=:)|www(?=\.)", re.IGNORECASE)


def text(value: Any) -> Markdown:
    """A value as running text or table cell: on one line, without HTML, emphasis, links or columns of its own."""
    if isinstance(value, Markdown):
        return value
    line = " ".join(str(value).split())
    return _without_links(_SPECIAL.sub(lambda found: f"\\{found[0]}", html.escape(line, quote=False)))


def code(value: Any) -> Markdown:
    """A name or setting as a code span, in which a renderer looks for nothing."""
    line = " ".join(str(value).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    # Tables look for their columns before code spans are read.
    return Markdown(f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")) if line else Markdown("")


def plain(value: Any) -> Markdown:
    """A value within an HTML tag of the template, where Markdown's own escapes would be seen."""
    return _without_links(html.escape(" ".join(str(value).split())))


def literal(value: Any) -> Markdown:
    """A string literal for Python code within a fence; JSON's and Python's are the same, and stay on one line."""
    return Markdown(json.dumps(str(value), ensure_ascii=False))


def fence(content: str, language: str) -> Markdown:
    """A block of code, whatever stands in it."""
    marks = "`" * max(3, 1 + max(map(len, re.findall("`+", content)), default=0))
    return Markdown(f"{marks}{language}\n{content.rstrip()}\n{marks}")


def target(address: str) -> Markdown:
    """Where a link or image points to: a file of the release, or the web."""
    quoted = address.replace("%", "%25").replace("<", "%3C").replace(">", "%3E").replace("\n", "%0A")
    return Markdown(f"<{quoted}>" if re.search(r"[\s()]", quoted) else quoted)


def link(label: str, address: str) -> Markdown:
    """A link with a label."""
    return Markdown(f"[{text(label)}]({target(address)})")


def table(heads: list[Any], rows: list[list[Any]], numbers: int = 0) -> Markdown:
    """A table.

    Args:
        heads: of its columns.
        rows: as long.
        numbers: how many columns at the right end hold numbers.
    """
    rules = ["---"] * (len(heads) - numbers) + ["---:"] * numbers
    lines = [[text(cell) for cell in line] for line in (heads, *rows)]
    lines.insert(1, [Markdown(rule) for rule in rules])
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _without_links(escaped: str) -> Markdown:
    # An empty comment parts the letters, so that no renderer sees an address.
    return Markdown(_AUTOLINK.sub(lambda found: f"{found[0][:-1]}<!-- -->{found[0][-1]}", escaped))
