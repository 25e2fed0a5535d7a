"""Errors whose message is shown to the user without a traceback."""

from __future__ import annotations

import errno
import re

_STORAGE = {
    errno.ENOSPC: "Free some disk space, and run the same command again.",
    errno.EDQUOT: "The disk quota is used up. Free some space, and run the same command again.",
    errno.EFBIG: "The file exceeds the size limit (ulimit -f). Raise it, and run the same command again.",
    errno.EMFILE: "Too many files are open. Raise the limit (ulimit -n), and run the same command again.",
}
# torch, safetensors and tokenizers report a failed write as an error of another type, with text only.
_FAILED_WRITE = re.compile(
    r"No space left|quota exceeded|File too large|file write failed|unexpected pos|os error 28", re.I
)


class UsageError(ValueError):
    """A mistake in the user's input. The message names the file, option or row at fault and the way out."""


def first_line(error: BaseException) -> str:
    """The first non-empty line of an error's message, or its class name if there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # After a colon, the next line is the reason.
    return " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1]) or type(error).__name__


def is_failed_write(error: BaseException) -> bool:
    """Whether an error means that the disk is full or a limit on files is reached."""
    if isinstance(error, OSError) and error.errno in _STORAGE:
        return True
    return type(error).__name__ in ("Exception", "RuntimeError", "SafetensorError") and bool(
        _FAILED_WRITE.search(str(error))
    )


def describe(error: BaseException) -> str:
    """An error in one line, with the file at fault and the way out where they are known."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}. {_STORAGE.get(error.errno or 0, '')}".strip()
    if is_failed_write(error):
        code = errno.EFBIG if "too large" in str(error) else errno.ENOSPC
        return f"A file could not be written ({first_line(error)}). {_STORAGE[code]}"
    if isinstance(error, UnicodeEncodeError):
        place = error.object[max(0, error.start - 80) : error.end + 20]
        return f"{place!r} is not UTF-8. Rename the file, or write the text again."
    return " ".join(str(error).split()) or type(error).__name__
