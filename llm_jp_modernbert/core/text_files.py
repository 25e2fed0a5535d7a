"""Read text files and standard input: UTF-8, plain or compressed with gzip (.gz) or zstd (.zst).

A byte-order mark at the beginning is dropped, and lines end at `\\n`, `\\r\\n` or `\\r`. Errors name the file and the
row. Memory is bounded, whatever a compressed file expands to.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from .errors import UsageError

STDIN = "-"
"""The source that means standard input."""
MAX_ROW_BYTES = 1 << 26
"""Longer rows are reported instead of read. Ten million characters fit, even as JSON escapes."""

_MAX_TEXT_BYTES = 1 << 29
_CHUNK = 1 << 20
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HALF_PAIR = "half of a surrogate pair, which is not a character. Write the row again from its source."


class SourceError(UsageError):
    """Data that cannot be read; the message names the file, the row and the way out."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        path: its file.
        row: its number in the file, from 1.
        reason: the fault and the way out; `blank` if the text is empty or white space.
    """

    path: str
    row: int
    reason: str

    @property
    def is_blank(self) -> bool:
        """Whether the row is merely empty, which is never an error."""
        return self.reason == "blank"

    def __str__(self) -> str:
        return f"{source_name(self.path)}, row {self.row}: {self.reason}"


def read_rows(source: str | Path, start: int = 0) -> Iterator[tuple[int, str | BadRow]]:
    """Yields each line with its row number from 1 and without its line break; an unreadable one is a `BadRow`.

    Args:
        source: a file, or `-` for standard input.
        start: number of rows to skip.

    Raises:
        SourceError: the file is missing, corrupt or in UTF-16.
    """
    name = source_name(source)
    row = 0
    try:
        with _opened(source) as file:
            for row, line in enumerate(_split(file), start=1):
                if row > start:
                    yield row, _decoded(name, row, line)
    except (OSError, EOFError, zlib.error) as error:
        raise _file_error(name, row, error) from error


def read_lines(source: str | Path) -> Iterator[tuple[int, str]]:
    """Yields each line with its row number from 1 and without its line break.

    Args:
        source: a file, or `-` for standard input.

    Raises:
        SourceError: the file or a row is unreadable.
    """
    for row, line in read_rows(source):
        yield row, _usable(line)


def read_json_lines(source: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the object of each line that is not blank with its row number from 1.

    Args:
        source: a file, or `-` for standard input.

    Raises:
        SourceError: the file is unreadable, or a row is not a JSON object of valid characters.
    """
    for row, line in read_lines(source):
        if not line.strip():
            continue
        try:
            record = parse_object(line)
            if _ESCAPED_SURROGATE.search(line):
                check_characters(json.dumps(record, ensure_ascii=False))
        except SourceError as error:
            raise SourceError(f"{source_name(source)}, row {row}: {error}") from None
        yield row, record


def json_lines(path: Path, *keys: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSON-lines file, compressed or not, each with its file and line for error messages.

    Args:
        path: the file.
        keys: required keys of each object.

    Raises:
        SourceError: a line is invalid.
    """
    for number, row in read_json_lines(path):
        place = f"{path}, line {number}"
        missing = [key for key in keys if key not in row]
        if missing:
            raise SourceError(f"{place}: has no {' or '.join(map(repr, missing))}.")
        yield place, row


def read_text(source: str | Path) -> str:
    """The text of a whole file, with `\\n` between its lines.

    Args:
        source: a file, or `-` for standard input.

    Raises:
        SourceError: the file is missing, corrupt, not UTF-8 or larger than 512 MiB.
    """
    name = source_name(source)
    try:
        with _opened(source) as file:
            chunks = list(islice(iter(lambda: file.read(_CHUNK), b""), _MAX_TEXT_BYTES // _CHUNK + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise _file_error(name, 0, error) from error
    if len(chunks) > _MAX_TEXT_BYTES // _CHUNK:
        raise SourceError(f"{name}: larger than {_MAX_TEXT_BYTES >> 20} MiB. Split it.")
    lines = b"".join(chunks).splitlines()
    return "\n".join(_usable(_decoded(name, row, line)) for row, line in enumerate(lines, start=1))


def is_remote(source: str | Path) -> bool:
    """Whether a source is a URL of fsspec, such as `s3://bucket/texts.jsonl.gz`."""
    return "://" in str(source)


def open_binary(path: str) -> IO[bytes]:
    """Opens a local or remote file for reading."""
    if not is_remote(path):
        return open(path, "rb")
    import fsspec

    try:
        return cast("IO[bytes]", fsspec.open(path, "rb").open())
    # Each storage raises its own exceptions; fsspec names the package that is missing for it.
    except Exception as error:
        raise SourceError(f"{path}: cannot be read: {error}") from error


def source_name(source: str | Path) -> str:
    """The name of a source in messages; bytes of a file name that are not UTF-8 are escaped."""
    return "standard input" if source == STDIN else os.fsencode(source).decode("utf-8", "backslashreplace")


def parse_object(line: str) -> dict[str, Any]:
    """The JSON object of a row; a `SourceError` holds the reason why it has none."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(
            f"not JSON ({error.msg}, column {error.colno}). Every row must be one JSON object."
        ) from None
    except ValueError as error:
        # Python refuses integers of thousands of digits.
        reason = str(error).partition(";")[0]
        raise SourceError(f"JSON that cannot be read ({reason}). Write such a number as a string.") from None
    except RecursionError:
        raise SourceError("JSON that is nested too deeply to be read. Remove the nested values.") from None
    if not isinstance(record, dict):
        raise SourceError(
            f'a JSON {type(record).__name__}. Every row must be one JSON object, such as {{"text": "…"}}.'
        )
    return record


def check_characters(text: str) -> None:
    """Raises a `SourceError` with the reason if a text has lone surrogates, which no tokenizer accepts."""
    if _SURROGATE.search(text):
        raise SourceError(_HALF_PAIR)


@contextmanager
def _opened(source: str | Path) -> Iterator[IO[bytes]]:
    if source == STDIN:
        yield sys.stdin.buffer
        return
    path = str(source)
    name = path.lower()
    with open_binary(path) as file:
        if name.endswith(".gz"):
            yield cast("IO[bytes]", io.BufferedReader(gzip.GzipFile(fileobj=file)))
        elif name.endswith(".zst"):
            # pyarrow includes the decompressor.
            import pyarrow

            yield cast("IO[bytes]", io.BufferedReader(pyarrow.input_stream(file, compression="zstd")))
        else:
            yield file


def _split(file: IO[bytes]) -> Iterator[bytes | None]:
    """The lines of a file without their line breaks; None in place of one that is too long."""
    parts: list[bytes] = []
    size = 0
    while chunk := file.read(_CHUNK):
        while chunk.endswith(b"\r") and (following := file.read(1)):
            chunk += following
        lines = chunk.splitlines()
        rest = b"" if chunk.endswith((b"\n", b"\r")) else lines.pop()
        for line in lines:
            if not size and len(line) <= MAX_ROW_BYTES:
                yield line
                continue
            yield None if size + len(line) > MAX_ROW_BYTES else b"".join((*parts, line))
            parts, size = [], 0
        size += len(rest)
        parts = [*parts, rest] if size <= MAX_ROW_BYTES else []
    if size:
        yield None if size > MAX_ROW_BYTES else b"".join(parts)


def _decoded(name: str, row: int, line: bytes | None) -> str | BadRow:
    if line is None:
        return BadRow(name, row, f"longer than {MAX_ROW_BYTES >> 20} MiB. Split it into several rows.")
    if row == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
        # Line breaks differ, so no other row can be read either.
        raise SourceError(f"{name}: not UTF-8. {_convert('UTF-16')}")
    try:
        return line.decode("utf-8-sig" if row == 1 else "utf-8")
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 ({error.reason} at byte {error.start} of the row). {_convert(_guessed_encoding(line))}"
        return BadRow(name, row, reason)


def _usable(line: str | BadRow) -> str:
    if isinstance(line, BadRow):
        raise SourceError(str(line))
    return line


def _guessed_encoding(line: bytes) -> str:
    # CP932 accepts most of EUC-JP as half-width katakana. It is Shift_JIS with the characters that Windows adds.
    try:
        line.decode("EUC-JP")
    except UnicodeDecodeError:
        return "CP932"
    return "EUC-JP"


def _convert(encoding: str) -> str:
    return f"Convert the file, for example with: iconv -f {encoding} -t UTF-8"


def _file_error(name: str, row: int, error: Exception) -> SourceError:
    if isinstance(error, EOFError):
        return SourceError(f"{name}: the gzip file ends too early, after row {row}. Download it again.")
    if isinstance(error, (gzip.BadGzipFile, zlib.error)):
        return SourceError(
            f"{name}, after row {row}: not a valid gzip file ({error}). Download it again, or remove .gz from its "
            "name if it is not compressed."
        )
    if isinstance(error, FileNotFoundError):
        return SourceError(f"{name}: no such file.")
    reason = getattr(error, "strerror", None)
    if reason is None and name.lower().endswith(".zst"):
        return SourceError(f"{name}, after row {row}: not a valid zstd file ({error}). Download it again.")
    return SourceError(f"{name}: cannot be read: {reason or error}.")
