"""Files in CoNLL's layout: a token and its tag per line, and a blank line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.text_files import read_lines

TAG = re.compile(r"O|[BIESLU]-.+")
"""Tags of BIO, IOB1, BIOES and BILOU."""


def conll_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sentences of a file, each with the line of its first token.

    The first column is the token and the last one its tag; columns are separated by tabs, or by spaces in lines
    without tabs. `-DOCSTART-` lines and comments (`# …`) are skipped.

    Raises:
        UsageError: a line has one column.
    """
    first, tokens, tags = 0, list[str](), list[str]()
    for number, line in read_lines(path):
        # Ideographic spaces are tokens.
        columns = line.rstrip().split("\t") if "\t" in line else line.strip(" ").split(" ")
        if not line.strip():
            if tokens:
                yield f"{path}, row {first}", {"tokens": tokens, "ner_tags": tags}
            first, tokens, tags = 0, [], []
            continue
        if columns[0] == "-DOCSTART-" or (line.startswith("#") and not TAG.fullmatch(columns[-1])):
            continue
        if len(columns) < 2:
            raise UsageError(f"{path}, row {number}: {line.strip()[:80]!r} is not a token and its tag.")
        first = first or number
        tokens.append(columns[0])
        tags.append(columns[-1].strip())
    if tokens:
        yield f"{path}, row {first}", {"tokens": tokens, "ner_tags": tags}
