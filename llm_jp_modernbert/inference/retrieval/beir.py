"""Retrieval datasets in BEIR's layout: `corpus.jsonl`, `queries.jsonl` and a table of judgements in `qrels`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.text_files import json_lines, read_lines

from .search import Search

_INTEGER = re.compile(r" *-?[0-9]+ *")


def read_beir(corpus_file: Path, queries_file: Path, judgements: Path) -> Search:
    """Reads the passages, each after its title, and the queries that have a relevant passage.

    Raises:
        UsageError: a file is not in this layout, or a judged passage is missing.
    """
    corpus = {
        str(row["_id"]): " ".join(filter(None, (row.get("title"), row["text"])))
        for row in text_rows(corpus_file, "_id", "text")
    }
    queries = {str(row["_id"]): row["text"] for row in text_rows(queries_file, "_id", "text")}
    relevant: dict[str, dict[str, int]] = {}
    for number, (place, (query, passage, cell)) in enumerate(tabbed_rows(judgements, 3)):
        if number == 0 and not _INTEGER.fullmatch(cell):
            # The names of the columns.
            continue
        grade = grade_of(place, cell)
        if passage not in corpus:
            raise UsageError(f"{place}: passage {passage} is not in {corpus_file.name}.")
        if grade > 0:
            relevant.setdefault(query, {})[passage] = grade
    judged = {query: text for query, text in queries.items() if query in relevant}
    return Search(corpus, judged, relevant)


def text_rows(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """Objects of a JSON-lines file whose keys are texts; `title` is optional and `_id` may be a number."""
    for place, row in json_lines(path, *keys):
        texts = {"title": row.get("title") or "", **{key: row[key] for key in keys if key != "_id"}}
        invalid = next((key for key, text in texts.items() if not isinstance(text, str)), None)
        if invalid is not None:
            raise UsageError(f"{place}: {invalid!r} is not a text.")
        yield row


def tabbed_rows(path: Path, columns: int) -> Iterator[tuple[str, list[str]]]:
    """Rows of a tab-separated table that are not blank, each with its place; the last column may contain tabs."""
    for number, line in read_lines(path):
        if line.strip():
            cells = line.split("\t", columns - 1)
            if len(cells) != columns:
                raise UsageError(f"{path}, line {number}: expected {columns} columns, separated by tabs.")
            yield f"{path}, line {number}", cells


def grade_of(place: str, cell: str) -> int:
    """The grade of a judgement."""
    if not _INTEGER.fullmatch(cell):
        raise UsageError(f"{place}: the grade {cell!r} is not an integer.")
    return int(cell)
