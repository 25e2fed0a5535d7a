"""Documents from files on disk: JSON lines, Parquet and plain text, plain or gzipped.

Every document remembers the file and row that it came from, and whatever is wrong with a file is said with both.
"""

from __future__ import annotations

import glob
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

_JSON = (".jsonl", ".json", ".ndjson")
_TEXT = (".txt", ".text")
_PARQUET = (".parquet",)
KNOWN_SUFFIXES = tuple(suffix + gz for suffix in (*_JSON, *_TEXT) for gz in ("", ".gz")) + _PARQUET


class SourceError(ValueError):
    """A file that cannot be read as documents; the message names the file, the row and the way out."""


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        text: its text, never blank.
        path: the file that it came from.
        row: its row there, from 1; in a text file the line at which it begins.
    """

    text: str
    path: str
    row: int


def find_files(patterns: Sequence[str]) -> list[str]:
    """The files that paths, folders and glob patterns name, in the order of the patterns.

    Args:
        patterns: files, folders (all their files of a known kind, at any depth) and patterns such as
            `corpus/**/*.jsonl.gz`.

    Raises:
        SourceError: a pattern that matches no file, or a file of an unknown kind.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            files = sorted(str(file) for file in path.rglob("*") if file.is_file() and _is_known(file.name))
            if not files:
                raise SourceError(f"{pattern}: the folder holds no {', '.join(KNOWN_SUFFIXES)} file.")
        elif path.is_file():
            files = [str(path)]
        else:
            files = sorted(file for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
            if not files:
                raise SourceError(f"{pattern}: no such file, and no file matches it as a pattern.")
        for file in files:
            if not _is_known(file):
                raise SourceError(f"{file}: not a kind of file that is read here ({', '.join(KNOWN_SUFFIXES)}).")
            found.setdefault(file)
    return list(found)


def read_documents(path: str, text_column: str = "text") -> Iterator[Document]:
    """The documents of one file, one at a time; blank ones are left out.

    Args:
        path: a `.jsonl` (also `.json`, `.ndjson`), `.txt` (documents parted by blank lines), either of them with
            `.gz`, or a `.parquet` file.
        text_column: the JSON key or Parquet column that holds the text.

    Raises:
        SourceError: the file does not exist, is broken, or holds no document.
    """
    if not Path(path).is_file():
        raise SourceError(f"{path}: no such file.")
    name = path.removesuffix(".gz")
    if name.endswith(_PARQUET):
        rows = _parquet_rows(path, text_column)
    elif name.endswith(_JSON):
        rows = _json_rows(path, text_column)
    elif name.endswith(_TEXT):
        rows = _text_rows(path)
    else:
        raise SourceError(f"{path}: not a kind of file that is read here ({', '.join(KNOWN_SUFFIXES)}).")
    empty = True
    for row, text in rows:
        if text.strip():
            empty = False
            yield Document(text, path, row)
    if empty:
        raise SourceError(f"{path}: holds no document: it is empty, or every text in it is blank.")


def read_in_turn(paths: Sequence[str], text_column: str = "text") -> Iterator[Document]:
    """The documents of several files, one of each in turn, so that a part of them is a part of every file."""
    readers = [read_documents(path, text_column) for path in paths]
    while readers:
        for reader in list(readers):
            document = next(reader, None)
            if document is None:
                readers.remove(reader)
            else:
                yield document


def _is_known(name: str) -> bool:
    return name.endswith(KNOWN_SUFFIXES)


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """`(row from 1, line without its end)` of a text file, plain or gzipped."""
    row = 0
    try:
        open_file = gzip.open if path.endswith(".gz") else open
        with cast("IO[bytes]", open_file(path, "rb")) as file:
            for row, line in enumerate(file, start=1):
                # A byte-order mark is no text.
                yield row, line.decode("utf-8-sig" if row == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}, row {row}: not UTF-8 ({error.reason} at byte {error.start} of the row). Convert the file, for "
            f"example with: iconv -f SHIFT_JIS -t UTF-8"
        ) from error
    except EOFError as error:
        raise SourceError(f"{path}: the gzip file ends too early, after row {row}. Download it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(
            f"{path}, after row {row}: not a sound gzip file ({error}). Download it again, or drop the .gz of its "
            "name if it is not compressed."
        ) from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _json_rows(path: str, text_column: str) -> Iterator[tuple[int, str]]:
    for row, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise SourceError(
                f"{path}, row {row}: not JSON ({error.msg}, column {error.colno}). Every row must be one JSON object."
            ) from error
        if not isinstance(record, dict):
            raise SourceError(
                f"{path}, row {row}: a JSON {type(record).__name__}. Every row must be one JSON object, such as "
                '{"text": "…"}.'
            )
        yield row, _text_of(record, text_column, f"{path}, row {row}")


def _text_of(record: dict[str, Any], text_column: str, where: str) -> str:
    if text_column not in record:
        columns = ", ".join(map(repr, record)) or "none"
        raise SourceError(
            f"{where}: no column {text_column!r}; there is {columns}. Name the right one with --text-column."
        )
    text = record[text_column]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise SourceError(f"{where}: column {text_column!r} holds a {type(text).__name__}, not a string.")
    return text


def _text_rows(path: str) -> Iterator[tuple[int, str]]:
    first, lines = 0, list[str]()
    for row, line in _lines(path):
        if line.strip():
            if not lines:
                first = row
            lines.append(line)
        elif lines:
            yield first, "\n".join(lines)
            lines = []
    if lines:
        yield first, "\n".join(lines)


def _parquet_rows(path: str, text_column: str) -> Iterator[tuple[int, str]]:
    # Imported here, since most corpora are JSON lines and pyarrow takes its time.
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        columns = file.schema_arrow.names
        if text_column not in columns:
            raise SourceError(
                f"{path}: no column {text_column!r}; there is {', '.join(map(repr, columns))}. Name the right one "
                "with --text-column."
            )
        kind = file.schema_arrow.field(text_column).type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise SourceError(f"{path}: column {text_column!r} holds {kind}, not strings.")
        row = 0
        for batch in file.iter_batches(batch_size=256, columns=[text_column]):
            for text in batch.column(0).to_pylist():
                row += 1
                yield row, text or ""
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{path}: not a sound Parquet file ({str(error).splitlines()[0]}). Get it again.") from error
