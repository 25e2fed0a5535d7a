"""Documents from files: JSON lines, plain text, Parquet and Arrow, plain, gzipped or zstd-compressed.

Every document remembers the file and row that it came from, and where its file is to be read on after it. Whatever is
wrong with a row is said with both; it is an error, or a `Problem` for whoever wants to count such rows and read on.
"""

from __future__ import annotations

import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

_JSON = (".jsonl", ".json", ".ndjson")
_TEXT = (".txt", ".text")
_TABLES = (".parquet", ".arrow")
_COMPRESSED = (".gz", ".zst")
KNOWN_SUFFIXES = tuple(suffix + end for suffix in (*_JSON, *_TEXT) for end in ("", *_COMPRESSED)) + _TABLES
_KINDS = ".jsonl, .json, .ndjson, .txt, .text, each with or without .gz or .zst, .parquet, .arrow"

IDS_COLUMN = "input_ids"
"""The column of a tokenised corpus that holds token ids."""
MANIFEST = "manifest.json"
"""The file that says what a tokenised corpus is; its shards stand in `data/` beside it."""

_HALF = re.compile("[\ud800-\udfff]")
# A file whose first so many rows are all unusable is the wrong file, or the wrong column was named.
_HOPELESS = 1000
_TABLE_ROWS = 256


class SourceError(ValueError):
    """A file that cannot be read as documents; the message names the file, the row and the way out."""


@dataclass(frozen=True)
class Problem:
    """A row that is no document.

    Attributes:
        path: its file.
        row: its row there, from 1.
        reason: what is wrong with it, and the way out.
    """

    path: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, row {self.row}: {self.reason}"


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        text: its text, never blank; empty where the document is tokenised already.
        path: the file that it came from.
        row: its row there, from 1; in a text file the line at which it begins.
        end: the last row that belongs to it: reading on from there gives the next document.
        ids: `(tokens,)` int32 without special tokens, of a tokenised corpus; otherwise None.
        characters: length of its text, which a tokenised corpus remembers.
    """

    text: str
    path: str
    row: int
    end: int
    characters: int
    ids: npt.NDArray[np.int32] | None = None


# What a reader finds in a row: a text, ids with the number of characters, or what is wrong.
_Content = str | tuple[npt.NDArray[np.int32], int] | Problem
_Rows = Iterator[tuple[int, int, _Content]]


def find_files(patterns: Sequence[str]) -> list[str]:
    """The files that paths, folders and glob patterns name, in the order of the patterns.

    Args:
        patterns: files, folders (all their files of a known kind, at any depth; of a tokenised corpus or a data set
            that `datasets` saved, its shards) and patterns such as `corpus/**/*.jsonl.gz`.

    Raises:
        SourceError: a pattern that matches no file, or a file of an unknown kind.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            files = _files_of_folder(path)
            if not files:
                raise SourceError(f"{pattern}: the folder holds no file of a known kind ({_KINDS}).")
        elif path.is_file():
            files = [str(path)]
        else:
            files = sorted(file for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
            if not files:
                raise SourceError(f"{pattern}: no such file, and no file matches it as a pattern.")
        for file in files:
            if not file.endswith(KNOWN_SUFFIXES):
                raise SourceError(f"{file}: not a kind of file that is read here ({_KINDS}).")
            found.setdefault(file)
    return list(found)


def _files_of_folder(folder: Path) -> list[str]:
    pattern, suffixes = "**/*", KNOWN_SUFFIXES
    if (folder / MANIFEST).is_file() and (folder / "data").is_dir():
        pattern, suffixes = "data/*", (".arrow",)
    elif (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        pattern, suffixes = "*", (".arrow",)
    return sorted(str(file) for file in folder.glob(pattern) if file.is_file() and file.name.endswith(suffixes))


def read_documents(
    path: str, text_column: str = "text", start: int = 0, problems: Callable[[Problem], Any] | None = None
) -> Iterator[Document]:
    """The documents of one file, one at a time; blank ones are left out.

    Args:
        path: a `.jsonl` (also `.json`, `.ndjson`) or `.txt` file (documents parted by blank lines), either of them
            with `.gz` or `.zst`, or a `.parquet` or `.arrow` file.
        text_column: the JSON key or column that holds the text. A table with a column `input_ids` but without this
            one is a tokenised corpus.
        start: rows to pass over: the `end` of the last document that was read.
        problems: is told of every row that is no document, blank ones among them; where None, a blank row is passed
            over, and any other such row is an error.

    Raises:
        SourceError: the file does not exist or is broken, a row is no document while `problems` is None, none of the
            first 1,000 rows is one, or the whole file holds none (unless it was read from within).
    """
    if not Path(path).is_file():
        raise SourceError(f"{path}: no such file.")
    first: Problem | None = None
    count, usable = 0, False
    for row, end, content in _rows(path, text_column, start):
        if isinstance(content, str) and not content.strip():
            content = Problem(path, row, "blank")
        if not isinstance(content, Problem):
            usable = True
            if isinstance(content, str):
                yield Document(content, path, row, end, len(content))
            else:
                yield Document("", path, row, end, content[1], content[0])
            continue
        blank = content.reason == "blank"
        if problems is not None:
            problems(content)
        elif not blank:
            raise SourceError(str(content))
        if not blank:
            first = first or content
            count += 1
            if not usable and not start and count >= _HOPELESS:
                raise SourceError(f"{path}: none of its first {count:,} rows is a document. The first: {first}")
    if not usable and not start:
        if first is not None:
            raise SourceError(f"{path}: none of its {count:,} rows is a document. The first: {first}")
        if problems is None:
            raise SourceError(f"{path}: holds no document: it is empty, or every text in it is blank.")


def is_tokenized(path: str, text_column: str = "text") -> bool:
    """Whether a file holds token ids and no texts.

    Raises:
        SourceError: a table is broken.
    """
    if not path.endswith(_TABLES):
        return False
    with _sound_table(path):
        columns, _ = _table(path)
    return IDS_COLUMN in columns and text_column not in columns


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


def _rows(path: str, text_column: str, start: int) -> _Rows:
    name = path.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(_TABLES):
        return _table_rows(path, text_column, start)
    if name.endswith(_JSON):
        return _json_rows(path, text_column, start)
    if name.endswith(_TEXT):
        return _text_rows(path, start)
    raise SourceError(f"{path}: not a kind of file that is read here ({_KINDS}).")


def _open(path: str) -> IO[bytes]:
    if path.endswith(".gz"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if path.endswith(".zst"):
        # pyarrow brings the decompressor along.
        import pyarrow

        return cast("IO[bytes]", io.BufferedReader(pyarrow.input_stream(path, compression="zstd")))
    return open(path, "rb")


def _lines(path: str, start: int) -> Iterator[tuple[int, str | Problem]]:
    """`(row from 1, line without its end)` of a text file after its first `start` rows."""
    row = 0
    try:
        with _open(path) as file:
            for row, line in enumerate(file, start=1):
                if row <= start:
                    continue
                try:
                    # A byte-order mark is no text.
                    yield row, line.decode("utf-8-sig" if row == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    reason = (
                        f"not UTF-8 ({error.reason} at byte {error.start} of the row). Convert the file, for example "
                        "with: iconv -f SHIFT_JIS -t UTF-8"
                    )
                    yield row, Problem(path, row, reason)
    except EOFError as error:
        raise SourceError(f"{path}: the gzip file ends too early, after row {row}. Download it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(
            f"{path}, after row {row}: not a sound gzip file ({error}). Download it again, or drop the .gz of its "
            "name if it is not compressed."
        ) from error
    except OSError as error:
        if path.endswith(".zst"):
            raise SourceError(
                f"{path}, after row {row}: not a sound zstd file ({error}). Download it again."
            ) from error
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _json_rows(path: str, text_column: str, start: int) -> _Rows:
    for row, line in _lines(path, start):
        if isinstance(line, Problem):
            yield row, row, line
        elif line.strip():
            found = _text_of(line, text_column)
            yield row, row, found if isinstance(found, str) else Problem(path, row, found[0])


def _text_of(line: str, text_column: str) -> str | tuple[str]:
    """The text of a JSON row, or a tuple with what is wrong with it."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return (f"not JSON ({error.msg}, column {error.colno}). Every row must be one JSON object.",)
    except ValueError as error:
        # Python reads no integer of thousands of digits.
        return (f"JSON that cannot be read ({str(error).partition(';')[0]}). Write such a number as a string.",)
    except RecursionError:
        return ("JSON that is nested too deeply to be read. Leave out of the row what is nested.",)
    if not isinstance(record, dict):
        return (f'a JSON {type(record).__name__}. Every row must be one JSON object, such as {{"text": "…"}}.',)
    if text_column not in record:
        return (_no_column(text_column, list(record)),)
    text = record[text_column]
    if text is None:
        return ""
    # Only an escape can bring one into a text.
    if "\\u" in line and isinstance(text, str) and _HALF.search(text):
        return ("half of a surrogate pair, which is no character. Write the row again from its source.",)
    return text if isinstance(text, str) else (f"column {text_column!r} holds a {type(text).__name__}, not a string.",)


def _no_column(text_column: str, columns: Sequence[str]) -> str:
    there = ", ".join(map(repr, columns)) or "none"
    return f"no column {text_column!r}; there is {there}. Name the right one with text_column (--text-column)."


def _text_rows(path: str, start: int) -> _Rows:
    first, row, lines = 0, start, list[str]()
    for row, line in _lines(path, start):
        if isinstance(line, Problem):
            yield row, row, line
        elif line.strip():
            if not lines:
                first = row
            lines.append(line)
        elif lines:
            yield first, row, "\n".join(lines)
            lines = []
    if lines:
        yield first, row, "\n".join(lines)


def _table_rows(path: str, text_column: str, start: int) -> _Rows:
    # Imported here, since most corpora are JSON lines and pyarrow takes its time.
    import pyarrow

    with _sound_table(path):
        columns, batches = _table(path)
        if text_column in columns:
            kind = columns[text_column]
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise SourceError(f"{path}: column {text_column!r} holds {kind}, not strings.")
            wanted = [text_column]
        elif IDS_COLUMN in columns:
            wanted = [name for name in (IDS_COLUMN, "characters") if name in columns]
        else:
            raise SourceError(f"{path}: {_no_column(text_column, list(columns))}")
        row = 0
        for batch in batches(wanted):
            skipped = max(0, min(batch.num_rows, start - row))
            row += skipped
            for content in _contents(batch.slice(skipped), wanted, path, row):
                row += 1
                yield row, row, content


@contextmanager
def _sound_table(path: str) -> Iterator[None]:
    """Says of a table that cannot be read that it is broken."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        kind = "Parquet" if path.endswith(".parquet") else "Arrow"
        raise SourceError(f"{path}: not a sound {kind} file ({str(error).splitlines()[0]}). Get it again.") from error


def _table(path: str) -> tuple[dict[str, Any], Callable[[list[str]], Iterator[Any]]]:
    """The columns with their types, and a function that reads some of them in batches of rows."""
    import pyarrow
    import pyarrow.parquet

    if path.endswith(".parquet"):
        parquet = pyarrow.parquet.ParquetFile(path)
        schema = parquet.schema_arrow
        return dict(zip(schema.names, schema.types, strict=True)), lambda wanted: parquet.iter_batches(
            batch_size=_TABLE_ROWS, columns=wanted
        )
    mapped = pyarrow.memory_map(path)
    try:
        stream: Any = pyarrow.ipc.open_stream(mapped)
    except pyarrow.ArrowInvalid:
        file = pyarrow.ipc.open_file(mapped)
        whole: Iterator[Any] = (file.get_batch(index) for index in range(file.num_record_batches))
        return dict(zip(file.schema.names, file.schema.types, strict=True)), lambda wanted: _selected(whole, wanted)
    return dict(zip(stream.schema.names, stream.schema.types, strict=True)), lambda wanted: _selected(stream, wanted)


def _selected(batches: Iterator[Any], wanted: list[str]) -> Iterator[Any]:
    return (batch.select(wanted) for batch in batches)


def _contents(batch: Any, wanted: list[str], path: str, row: int) -> Iterator[_Content]:
    """What stands in the rows of a batch, which follows so many rows of its file."""
    if wanted[0] != IDS_COLUMN:
        yield from _strings(batch.column(0), path, row)
        return
    lists = batch.column(0)
    offsets = np.asarray(lists.offsets)
    ids = np.asarray(lists.values).astype(np.int32, copy=False)
    lengths = np.asarray(batch.column(1)) if len(wanted) > 1 else np.diff(offsets)
    for begin, end, characters in zip(offsets[:-1], offsets[1:], lengths, strict=True):
        # A document without a token is as blank as one without a character.
        yield (ids[begin:end], int(characters)) if end > begin else ""


def _strings(column: Any, path: str, row: int) -> Iterator[str | Problem]:
    try:
        yield from [text or "" for text in column.to_pylist()]
        return
    except UnicodeDecodeError:
        # Whoever writes a table need not check its strings; one by one, the others can be read.
        pass
    for text in column:
        row += 1
        try:
            yield text.as_py() or ""
        except UnicodeDecodeError as error:
            reason = (
                f"not UTF-8 ({error.reason} at byte {error.start} of the text). Write the row again from its source."
            )
            yield Problem(path, row, reason)
