"""Read documents from JSON-lines, plain-text, WET, Parquet and Arrow files; text files may be compressed.

Every document knows its file, its row and the row to resume reading after. `read_documents` raises an error at the
first unreadable row; `read_rows` returns such rows as `BadRow`, for callers that count them and continue.
"""

from __future__ import annotations

import glob
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from llm_jp_modernbert.core import text_files
from llm_jp_modernbert.core.text_files import BadRow as BadRow
from llm_jp_modernbert.core.text_files import SourceError as SourceError
from llm_jp_modernbert.core.text_files import check_characters, is_remote, open_binary, parse_object

from .manifest import DATA, MANIFEST, PROGRESS

_JSON = (".jsonl", ".json", ".ndjson")
_TEXT = (".txt", ".text")
_WET = (".wet", ".wet.gz")
_TABLES = (".parquet", ".arrow")
KNOWN_SUFFIXES = tuple(suffix + end for suffix in (*_JSON, *_TEXT) for end in ("", ".gz", ".zst")) + _WET + _TABLES
_SUPPORTED = ".jsonl, .json, .ndjson, .txt, .text, each with or without .gz or .zst, .wet, .wet.gz, .parquet, .arrow"

IDS_COLUMN = "input_ids"
"""The column of a tokenized corpus that holds token ids."""

# A file whose first rows are all unreadable is the wrong file, or has another text column.
_MAX_LEADING_BAD_ROWS = 1000
_TABLE_ROWS = 256
# Tokenizers need up to 200 bytes of memory per character. Twice the length of the longest novels.
_MAX_CHARACTERS = 10_000_000
_TOO_LONG = f"longer than {_MAX_CHARACTERS:,} characters. Split it into several documents."


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        text: the text, never blank; empty if the document is already tokenized.
        path: its file.
        row: its first row in the file, from 1 (a line number for text files).
        end: its last row; reading from `start=end` continues with the next document.
        characters: length of the text in characters.
        ids: `(tokens,)` int32 without special tokens, if the document is already tokenized.
    """

    text: str
    path: str
    row: int
    end: int
    characters: int
    ids: npt.NDArray[np.int32] | None = None


Rows = Iterator[Document | BadRow]


def find_files(patterns: Sequence[str]) -> list[str]:
    """Lists the files that paths, directories and glob patterns name, in the order of the patterns.

    Args:
        patterns: files, directories (searched recursively for supported files; only the shards if the directory is
            a tokenized corpus or was written by `Dataset.save_to_disk`), or patterns such as `corpus/**/*.jsonl.gz`,
            all of them local or URLs such as `s3://bucket/corpus`.

    Raises:
        SourceError: a pattern matches no file, or a file type is unsupported.
    """
    files: dict[str, None] = {}
    for pattern in patterns:
        path = Path(os.path.expanduser(pattern))
        if is_remote(pattern):
            matches = _remote_files(pattern)
        elif path.is_dir():
            matches = _files_of_directory(path)
            if not matches:
                raise SourceError(f"{pattern}: the directory holds no file of a supported type ({_SUPPORTED}).")
        elif path.is_file():
            matches = [str(path)]
        else:
            matches = sorted(file for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
            if not matches:
                raise SourceError(f"{pattern}: no such file, and no file matches it as a pattern.")
        for file in matches:
            if not file.endswith(KNOWN_SUFFIXES):
                raise SourceError(f"{file}: unsupported file type. Supported: {_SUPPORTED}.")
        files.update(dict.fromkeys(matches))
    return list(files)


def _remote_files(pattern: str) -> list[str]:
    from .remote import remote_files

    files, is_directory = remote_files(pattern)
    if is_directory:
        files = [file for file in files if file.endswith(KNOWN_SUFFIXES)]
    if not files:
        raise SourceError(f"{pattern}: no such file, and no file of a supported type ({_SUPPORTED}) matches it.")
    return files


def _files_of_directory(directory: Path) -> list[str]:
    pattern, suffixes = "**/*", KNOWN_SUFFIXES
    if (directory / MANIFEST).is_file() and (directory / DATA).is_dir():
        # One request for 100,000 names, and none for each file.
        with os.scandir(directory / DATA) as entries:
            return sorted(entry.path for entry in entries if entry.name.endswith(".arrow") and entry.is_file())
    elif (directory / PROGRESS).is_dir() and (directory / DATA).is_dir():
        raise SourceError(
            f"{directory}: an unfinished tokenized corpus. Run the same tokenize-corpus command again to resume, with "
            "--merge if all its parts are finished."
        )
    elif (directory / "report.json").is_file() and (directory / "train").is_dir():
        raise SourceError(
            f"{directory}: a prepared corpus with several splits. Name {directory}/train or {directory}/validation."
        )
    elif (directory / "state.json").is_file() and (directory / "dataset_info.json").is_file():
        pattern, suffixes = "*", (".arrow",)
    return sorted(str(file) for file in directory.glob(pattern) if file.is_file() and file.name.endswith(suffixes))


def read_documents(path: str, text_column: str = "text", start: int = 0) -> Iterator[Document]:
    """Yields the documents of one file and skips blank ones.

    Args:
        path: a `.jsonl` (also `.json`, `.ndjson`) or `.txt` file (documents separated by blank lines), optionally
            with `.gz` or `.zst`, a `.wet` file of texts of web pages (WARC format, with or without `.gz`), or a
            `.parquet` or `.arrow` file.
        text_column: the JSON key or column that holds the text. A table that has a column `input_ids` and not this
            one is a tokenized corpus.
        start: number of rows to skip: the `end` of the last document that was read.

    Raises:
        SourceError: the file is missing or corrupt, a row is unreadable, or the whole file holds no document.
    """
    count = 0
    for row in read_rows(path, text_column, start):
        if isinstance(row, Document):
            count += 1
            yield row
        elif not row.is_blank:
            raise SourceError(str(row))
    if not count and not start:
        raise SourceError(f"{path}: holds no document: it is empty, or every text in it is blank.")


def read_rows(path: str, text_column: str = "text", start: int = 0) -> Rows:
    """Like `read_documents`, but yields blank and unreadable rows as `BadRow`.

    Raises:
        SourceError: the file is missing or corrupt, or its first 1,000 rows, or all of them, are unreadable.
    """
    if not is_remote(path) and not Path(path).is_file():
        raise SourceError(f"{path}: no such file.")
    first_bad: BadRow | None = None
    bad_rows, usable = 0, start > 0
    for row in _rows(path, text_column, start):
        yield row
        if isinstance(row, Document):
            usable = True
        elif not row.is_blank and not usable:
            first_bad = first_bad or row
            bad_rows += 1
            if bad_rows >= _MAX_LEADING_BAD_ROWS:
                raise SourceError(f"{path}: none of its first {bad_rows:,} rows is a document. The first: {first_bad}")
    if not usable and first_bad is not None:
        raise SourceError(f"{path}: none of its {bad_rows:,} rows is a document. The first: {first_bad}")


def is_tokenized(path: str, text_column: str = "text") -> bool:
    """Whether a file holds token ids instead of texts.

    Raises:
        SourceError: the table is corrupt.
    """
    if not path.endswith(_TABLES):
        return False
    with _open_table(path) as (columns, _):
        return IDS_COLUMN in columns and text_column not in columns


def read_in_turn(paths: Sequence[str], text_column: str = "text") -> Iterator[Document]:
    """Yields one document of each file in turn, so that any prefix draws evenly on all files."""
    readers = [read_documents(path, text_column) for path in paths]
    while readers:
        for reader in list(readers):
            document = next(reader, None)
            if document is None:
                readers.remove(reader)
            else:
                yield document


def _rows(path: str, text_column: str, start: int) -> Rows:
    if path.endswith(_WET):
        return _wet_rows(path, start)
    name = path.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(_TABLES):
        return _table_rows(path, text_column, start)
    if name.endswith(_JSON):
        return _json_rows(path, text_column, start)
    if name.endswith(_TEXT):
        return _text_rows(path, start)
    raise SourceError(f"{path}: unsupported file type. Supported: {_SUPPORTED}.")


def text_document(text: str | None, path: str, row: int, end: int | None = None) -> Document | BadRow:
    """The document of a text in the rows from `row` to `end`; a `BadRow` if it is blank or too long."""
    if not text or text.isspace():
        return BadRow(path, row, "blank")
    if len(text) > _MAX_CHARACTERS:
        return BadRow(path, row, _TOO_LONG)
    return Document(text, path, row, row if end is None else end, len(text))


def _json_rows(path: str, text_column: str, start: int) -> Rows:
    for row, line in text_files.read_rows(path, start):
        if isinstance(line, BadRow):
            yield line
        elif line.strip():
            try:
                yield text_document(_text_of_json(line, text_column), path, row)
            except SourceError as error:
                yield BadRow(path, row, str(error))


def _text_of_json(line: str, text_column: str) -> str | None:
    """The text of a JSON row; a SourceError holds the reason why it has none."""
    record = parse_object(line)
    if text_column not in record:
        raise SourceError(no_column(text_column, list(record)))
    text = record[text_column]
    if text is not None and not isinstance(text, str):
        raise SourceError(f"column {text_column!r} holds a {type(text).__name__}, not a string.")
    # Only an escape sequence can put a lone surrogate into a text.
    if text and "\\u" in line:
        check_characters(text)
    return text


def no_column(text_column: str, columns: Sequence[str]) -> str:
    """The message that a text column is missing."""
    present = ", ".join(map(repr, columns[:20])) + (", …" if len(columns) > 20 else "") or "none"
    return (
        f"no column {text_column!r}; the columns are {present}. Name the right one with text_column (--text-column)."
    )


def _text_rows(path: str, start: int) -> Rows:
    first, row, characters, lines = 0, start, 0, list[str]()
    for row, line in text_files.read_rows(path, start):
        if isinstance(line, BadRow):
            yield line
        elif line.strip():
            if not lines:
                first = row
            # A longer document is not kept in memory.
            if characters <= _MAX_CHARACTERS + 1:
                lines.append(line)
            characters += len(line) + 1
        elif lines:
            yield text_document("\n".join(lines), path, first, row)
            characters, lines = 0, []
    if lines:
        yield text_document("\n".join(lines), path, first, row)


def _wet_rows(path: str, start: int) -> Rows:
    """The texts of a WET file, such as those of Common Crawl; rows are the `conversion` records."""
    try:
        from warcio.archiveiterator import ArchiveIterator
        from warcio.exceptions import ArchiveLoadFailed
    except ImportError as error:
        raise SourceError(f'{path}: WET files need warcio: pip install "llm-jp-modernbert[corpus]"') from error
    row = 0
    with open_binary(path) as file:
        try:
            for record in ArchiveIterator(file):
                if record.rec_type != "conversion":
                    continue
                row += 1
                if row <= start:
                    continue
                content = record.content_stream().read()
                # warcio does not report the end of the file inside a record.
                if len(content) != int(record.rec_headers.get_header("Content-Length", "-1")):
                    raise EOFError("the file ends inside a record")
                try:
                    yield text_document(content.decode("utf-8"), path, row)
                except UnicodeDecodeError:
                    yield BadRow(path, row, "not UTF-8")
        except (ArchiveLoadFailed, EOFError, OSError, zlib.error) as error:
            raise SourceError(f"{path}: corrupt WET file after record {row:,} ({error}).") from error


def _table_rows(path: str, text_column: str, start: int) -> Rows:
    import pyarrow

    with _open_table(path) as (columns, read):
        if text_column in columns:
            kind = columns[text_column]
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise SourceError(f"{path}: column {text_column!r} holds {kind}, not strings.")
            rows_of, names = _string_rows, [text_column]
        elif IDS_COLUMN in columns:
            kind = columns[IDS_COLUMN]
            if not (pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)):
                raise SourceError(f"{path}: column {IDS_COLUMN!r} holds {kind}, not lists of token ids.")
            rows_of, names = _id_rows, [IDS_COLUMN]
            if "characters" in columns and pyarrow.types.is_integer(columns["characters"]):
                names.append("characters")
        else:
            raise SourceError(f"{path}: {no_column(text_column, list(columns))}")
        row = 0
        for batch in read(names):
            skipped = max(0, min(batch.num_rows, start - row))
            yield from rows_of(batch.slice(skipped), path, row + skipped)
            row += batch.num_rows


@contextmanager
def _open_table(path: str) -> Iterator[tuple[dict[str, Any], Callable[[list[str]], Iterator[Any]]]]:
    """The columns of a table with their types, and a function that reads some of them as record batches."""
    import pyarrow
    import pyarrow.parquet

    is_parquet = path.endswith(".parquet")
    # pyarrow accepts file names that are not UTF-8 only as bytes.
    name = os.fsencode(path)
    try:
        if is_parquet:
            parquet = pyarrow.parquet.ParquetFile(open_binary(path) if is_remote(path) else pyarrow.OSFile(name))
            schema = parquet.schema_arrow
        else:
            mapped: Any = pyarrow.PythonFile(open_binary(path)) if is_remote(path) else pyarrow.memory_map(name)
            try:
                batches: Any = pyarrow.ipc.open_stream(mapped)
                schema = batches.schema
            except pyarrow.ArrowInvalid:
                mapped.seek(0)
                file = pyarrow.ipc.open_file(mapped)
                schema, batches = file.schema, (file.get_batch(index) for index in range(file.num_record_batches))

        def read(names: list[str]) -> Iterator[Any]:
            if is_parquet:
                return cast("Iterator[Any]", parquet.iter_batches(_TABLE_ROWS, columns=names))
            return (batch.select(names) for batch in batches)

        yield dict(zip(schema.names, schema.types, strict=True)), read
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "Parquet" if is_parquet else "Arrow"
        reason = str(error).splitlines()[0]
        raise SourceError(f"{path}: not a valid {kind} file ({reason}). Download it again.") from error


def token_ids(values: Any) -> npt.NDArray[np.int32]:
    """An Arrow array as int32; raises an `ArrowException` if its values are not integers, are null or do not fit."""
    import pyarrow

    if not pyarrow.types.is_integer(values.type):
        raise pyarrow.ArrowTypeError(f"token ids of type {values.type}")
    return cast("npt.NDArray[np.int32]", values.cast(pyarrow.int32()).to_numpy())


def _id_rows(batch: Any, path: str, row: int) -> Rows:
    """The documents of a batch of token ids that follows the first `row` rows of its file."""
    batch.validate(full=True)
    lists = batch.column(0)
    offsets, ids = np.asarray(lists.offsets), token_ids(lists.values)
    lengths = np.asarray(batch.column(1).fill_null(0)) if batch.num_columns > 1 else np.diff(offsets)
    for begin, end, characters in zip(offsets[:-1], offsets[1:], lengths, strict=True):
        row += 1
        if end > begin:
            yield Document("", path, row, row, int(characters), ids[begin:end])
        else:
            yield BadRow(path, row, "blank")


def _string_rows(batch: Any, path: str, row: int) -> Rows:
    """The documents of a batch of strings that follows the first `row` rows of its file."""
    import pyarrow

    column = batch.column(0)
    # Arrow would read beyond its memory at wrong offsets. As bytes, because unreadable texts are reported by row.
    is_large = pyarrow.types.is_large_string(column.type)
    column.view(pyarrow.large_binary() if is_large else pyarrow.binary()).validate(full=True)
    try:
        texts = column.to_pylist()
    except UnicodeDecodeError:
        # Arrow does not validate strings when it writes them; the valid ones can be read one at a time.
        texts = column
    for text in texts:
        row += 1
        try:
            yield text_document(text if text is None or isinstance(text, str) else text.as_py(), path, row)
        except UnicodeDecodeError as error:
            reason = (
                f"not UTF-8 ({error.reason} at byte {error.start} of the text). Write the row again from its source."
            )
            yield BadRow(path, row, reason)
