"""What several commands do with the screen and standard input."""

from __future__ import annotations

import sys

from ..errors import UsageError


def quiet() -> None:
    """The screen is the job's: transformers' bars and notes on loading are not what was asked for."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def with_input(texts: list[str]) -> list[str]:
    """The texts, with the lines of standard input in the place of `-`."""
    found: list[str] = []
    for text in texts:
        if text == "-":
            found += [line for line in (raw.rstrip("\r\n") for raw in sys.stdin) if line.strip()]
        else:
            found.append(text)
    if not found:
        raise UsageError("standard input holds no text. Give one text a line.")
    return found
