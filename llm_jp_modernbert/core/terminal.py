"""The terminal of a command: log records, progress bars, and text that is safe to print."""

from __future__ import annotations

import logging
import os
import re
from functools import cache

from rich.console import Console

# Control sequences (CSI), commands to the terminal (OSC, DCS, PM, APC), then other control and direction characters.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)", re.S)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
ACCESS_TOKEN = r"\bhf_[A-Za-z0-9]{16,}"
"""Regular expression of the Hub's access tokens. Names such as hf_datasets are shorter."""

# Also shortened tokens, which mix letters with digits or capitals.
_TOKENS = re.compile(rf"{ACCESS_TOKEN}|\bhf_(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{{6,}}|(?<=Bearer )\S+")


def printable(text: str) -> str:
    """Text from elsewhere without terminal escapes, access tokens and characters that cannot be encoded."""
    text = _CONTROLS.sub("", _ESCAPES.sub("", text))
    return _TOKENS.sub("hf_***", text).encode("utf-8", "replace").decode("utf-8")


@cache
def console() -> Console:
    """The console on standard error that log records and progress bars share, so that they do not overwrite."""
    return Console(stderr=True)


class _ConsoleHandler(logging.Handler):
    """Prints records without wrapping, so that a log file keeps one line per message."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else None
        console().print(printable(self.format(record)), style=style, markup=False, highlight=False, soft_wrap=True)


def show_logs() -> None:
    """Shows this package's log records from INFO on the console; other ranks than 0 show warnings only."""
    rank = int(os.environ.get("RANK", "0"))
    logger = logging.getLogger("llm_jp_modernbert")
    logger.setLevel(logging.WARNING if rank else logging.INFO)
    if not any(isinstance(handler, _ConsoleHandler) for handler in logger.handlers):
        handler = _ConsoleHandler()
        handler.setFormatter(logging.Formatter(f"[rank {rank}] %(message)s" if rank else "%(message)s"))
        logger.addHandler(handler)


def quiet_libraries() -> None:
    """Turns off the progress bars and loading notes of transformers, and the hints of sentence-transformers."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
