"""Limits on what visitors enter; mistakes are shown to them in their language."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import wraps
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.text_files import SourceError, check_characters

from .wording import Language, phrase

MAX_CHARACTERS = 60_000
"""Far above the characters of 8,192 tokens, and little enough to tokenize at once."""


class InputError(UsageError):
    """A mistake in a visitor's input.

    Args:
        key: key of the message in `WORDING`.
        values: values of its fields.
    """

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(phrase("en", key, **values))
        self.key, self.values = key, values


def check_text(text: str | None, limit: int = MAX_CHARACTERS) -> str:
    """Returns a text without surrounding whitespace; raises `InputError` if it is empty, too long or not encodable."""
    text = (text or "").strip()
    if not text:
        raise InputError("empty")
    if len(text) > limit:
        raise InputError("too_many_characters", count=len(text), limit=limit)
    try:
        check_characters(text)
    except SourceError as error:
        raise InputError("surrogates") from error
    return text


def alert(error: UsageError, language: Language) -> str:
    """A message for the visitor, as HTML."""
    message = phrase(language, error.key, **error.values) if isinstance(error, InputError) else str(error)
    return f'<p class="alert" role="alert">{html.escape(message)}</p>'


def with_alerts(compute: Callable[..., str]) -> Callable[..., str]:
    """Makes a function that returns HTML return an alert for a visitor's mistake.

    Args:
        compute: receives the visitor's language as its argument `language`.
    """

    @wraps(compute)
    def computed(language: Language, *arguments: Any, **options: Any) -> str:
        try:
            return compute(language, *arguments, **options)
        except UsageError as error:
            return alert(error, language)

    return computed
