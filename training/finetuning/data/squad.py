"""Files in SQuAD's JSON layout."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from llm_jp_modernbert.core.files import parse_json
from llm_jp_modernbert.core.text_files import read_text

MAX_JSON_BYTES = 2**29
"""Largest JSON file in bytes that is read."""


class SquadQuestion(TypedDict):
    """A question in SQuAD's JSON layout."""

    question: str
    id: NotRequired[str | int]
    answers: NotRequired[list[dict[str, Any]]]
    is_impossible: NotRequired[bool]


class Paragraph(TypedDict):
    """A paragraph in SQuAD's JSON layout."""

    context: str
    qas: list[SquadQuestion]


class Article(TypedDict):
    """An article in SQuAD's JSON layout."""

    title: NotRequired[str]
    paragraphs: list[Paragraph]


class _Squad(TypedDict):
    data: list[Article]


def squad(path: Path) -> list[Article]:
    """The articles of a file in SQuAD's JSON layout.

    Raises:
        UsageError: another layout.
    """
    layout = f"{path}: not in SQuAD's JSON layout (data, paragraphs, context, qas)"
    articles: list[Article] = parse_json(read_text(path), layout, _Squad, max_bytes=MAX_JSON_BYTES)["data"]
    return articles


def squad_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Questions of a file in the layout of the Hub's rows, each with its place."""
    number = 0
    for article in squad(path):
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                number += 1
                # Version 2 marks questions that the passage does not answer.
                answers = [] if question.get("is_impossible") else question.get("answers", [])
                columns = {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")}
                row = {"question": question["question"], "context": paragraph["context"], "answers": columns}
                yield f"{path}, question {question.get('id', number)}", row


def answer_start(context: str, answer: str, start: Any) -> int:
    """Start of the occurrence of an answer that is nearest to `start`, or of the first one.

    Raises:
        ValueError: the answer does not occur in the passage.
    """
    if not isinstance(start, int):
        start = 0
    if start >= 0 and context.startswith(answer, start):
        return start
    places = [match.start() for match in re.finditer(f"(?={re.escape(answer)})", context)]
    if not places:
        raise ValueError(f"answer {answer[:60]!r} does not occur in its passage")
    return min(places, key=lambda place: abs(place - start))
