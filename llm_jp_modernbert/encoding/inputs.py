"""The texts to encode: files, folders, patterns and Hub datasets, read in order from any row."""

from __future__ import annotations

import csv
import glob
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from llm_jp_modernbert.core.errors import UsageError, describe
from llm_jp_modernbert.core.hub_errors import one_line_errors
from llm_jp_modernbert.core.references import ModelReference, is_repository
from llm_jp_modernbert.core.terminal import printable
from llm_jp_modernbert.core.text_files import (
    MAX_ROW_BYTES,
    BadRow,
    SourceError,
    check_characters,
    parse_object,
    source_name,
)
from llm_jp_modernbert.core.text_files import read_rows as read_text_rows

_JSON = (".jsonl", ".ndjson", ".json")
_TEXT = (".txt", ".text")
_DELIMITED = {".csv": ",", ".tsv": "\t"}
_PARQUET = ".parquet"
_SUPPORTED = (*_JSON, *_TEXT, *_DELIMITED, _PARQUET)
_COMPRESSED = (".gz", ".zst")
_SHOWN_COLUMNS = 20
_SHOWN_CHARACTERS = 300
# A row of a table is read with this many others.
_TABLE_ROWS = 256
# Rows that are searched for a first text before the work begins.
_SEARCHED = 1000
# Bytes at both ends of a file that identify it.
_SAMPLE = 1 << 20


@dataclass(frozen=True)
class Columns:
    """Names of the columns of the text, of an optional second text and of an optional id."""

    text: str
    pair: str | None = None
    id: str | None = None

    @property
    def names(self) -> list[str]:
        """All columns that are read."""
        return list(dict.fromkeys(name for name in (self.text, self.pair, self.id) if name is not None))


@dataclass(frozen=True)
class Document:
    """A text to encode, its id, its place, and an optional second text."""

    source: str
    row: int
    id: str
    text: str
    pair: str | None = None


class Source(Protocol):
    """A file, or a split of a Hub dataset.

    Attributes:
        name: its name in ids and messages.
        rows: number of rows, blank and unreadable ones included; None if unknown.
        fingerprint: identifies its content.
    """

    @property
    def name(self) -> str: ...

    @property
    def rows(self) -> int | None: ...

    @property
    def fingerprint(self) -> str: ...

    def raw(self, start: int) -> Iterator[Any]:
        """Yields unparsed rows after the first `start`, which are skipped cheaply.

        Raises:
            UsageError: the source cannot be read, or lacks a column.
        """
        ...

    def parse(self, raw: Any) -> Document | BadRow:
        """The document of an unparsed row."""
        ...


class Inputs:
    """All sources as one sequence of rows.

    Args:
        sources: one or more sources.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self._rows: Iterator[tuple[Source, Any]] = iter(())
        self._position = -1

    @cached_property
    def rows(self) -> int | None:
        """Number of rows, blank and unreadable ones included; None if unknown."""
        counts = [source.rows for source in self.sources]
        return None if None in counts else sum(count for count in counts if count is not None)

    def read(self, start: int, count: int) -> Generator[Document | BadRow, None, None]:
        """Yields the rows from `start` on (from 0), at most `count`.

        Reading ranges in ascending order reads every file once.
        """
        if not 0 <= self._position <= start:
            self._rows, self._position = self._raw(start), start
        for _ in islice(self._rows, start - self._position):
            pass
        self._position = start
        for source, raw in islice(self._rows, count):
            self._position += 1
            yield source.parse(raw)

    def _raw(self, start: int) -> Iterator[tuple[Source, Any]]:
        for source in self.sources:
            if source.rows is not None and start >= source.rows:
                start -= source.rows
                continue
            # The number of rows of a stream may be unknown.
            raw = source.raw(0 if source.rows is None else start)
            skipped = sum(1 for _ in islice(raw, start)) if source.rows is None else start
            for row in raw:
                yield source, row
            start -= skipped

    def check(self) -> None:
        """Raises `UsageError` if none of the first rows is a text."""
        bad: list[BadRow] = []
        count = 0
        with closing(self.read(0, _SEARCHED)) as rows:
            for row in rows:
                if isinstance(row, Document):
                    return
                count += 1
                if not row.is_blank:
                    bad.append(row)
        names = ", ".join(source.name for source in self.sources[:3]) + (", …" if len(self.sources) > 3 else "")
        if not bad:
            raise UsageError(f"{names}: no text, only {count:,} blank rows." if count else f"{names}: no rows.")
        raise UsageError(f"{names}: none of the first {count:,} rows is a text. The first: {bad[0]}")


def open_inputs(
    names: Sequence[str], columns: Columns, split: str | None = None, config_name: str | None = None
) -> Inputs:
    """Finds the sources of texts.

    Args:
        names: files, folders, glob patterns, or `ORG/NAME[@REVISION]` of the Hub.
        columns: columns to read; text files have none, each line is a text.
        split, config_name: split (by default `train`) and configuration of Hub datasets.

    Raises:
        UsageError: a name is neither a file of a supported type nor a dataset, or no dataset has the split.
    """
    sources: list[Source] = []
    for name in names:
        path = Path(os.path.expanduser(name))
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and _suffix(file) in _SUPPORTED)
            places = [file.relative_to(path).as_posix() for file in files]
            files = [file for file, place in zip(files, places, strict=True) if not _is_hidden(place)]
            if not files:
                raise UsageError(f"{name}: the folder has no file of a supported type ({' '.join(_SUPPORTED)}).")
            sources += [_file(file, file.relative_to(path).as_posix(), columns) for file in files]
            continue
        files = [path] if path.is_file() else sorted(Path(file) for file in glob.glob(str(path), recursive=True))
        files = [file for file in files if file.is_file()]
        if files:
            sources += [_file(file, file.name, columns) for file in files]
        elif _suffix(name) in _SUPPORTED or not is_repository(name.partition("@")[0]):
            raise UsageError(f"{name}: no such file, and not the name of a dataset of the Hub (ORG/NAME).")
        else:
            sources.append(_HubSplit.open(name, columns, split or "train", config_name))
    if (split or config_name) and not any(isinstance(source, _HubSplit) for source in sources):
        option = "--split" if split else "--config-name"
        raise UsageError(f"{option} is for datasets of the Hub, not for files. Drop it.")
    counted = [source.name for source in sources]
    return Inputs(
        [
            replace(source, name=source_name(source.path))
            if isinstance(source, _File) and counted.count(source.name) > 1
            else source
            for source in sources
        ]
    )


def _is_hidden(place: str) -> bool:
    return any(part.startswith(".") for part in place.split("/"))


def _suffix(path: str | Path) -> str:
    name = str(path).lower()
    for compressed in _COMPRESSED:
        name = name.removesuffix(compressed)
    return os.path.splitext(name)[1]


def _file(path: Path, name: str, columns: Columns) -> _File:
    suffix = _suffix(path)
    if suffix not in _SUPPORTED or (suffix == _PARQUET and path.suffix.lower() != _PARQUET):
        raise UsageError(
            f"{path}: unsupported file type. Supported: {' '.join(_SUPPORTED)}, and .gz or .zst of texts."
        )
    kind = _Json if suffix in _JSON else _Delimited if suffix in _DELIMITED else _Lines
    return (_Parquet if suffix == _PARQUET else kind)(path, source_name(name), columns)


def no_column(columns: Sequence[str], present: Sequence[str]) -> str | None:
    """A message if a column is missing, with those that are present, or is there twice; None if all are right."""
    wrong = next((column for column in columns if present.count(column) != 1), None)
    if wrong is None:
        return None
    if wrong in present:
        return f"has the column {wrong!r} twice. Rename one of them."
    names = ", ".join(map(repr, present[:_SHOWN_COLUMNS])) + (", …" if len(present) > _SHOWN_COLUMNS else "")
    way_out = "Name it with --text-column, --pair-column or --id-column."
    return f"no column {wrong!r}; the columns are {names or 'none'}. {way_out}"


@dataclass(frozen=True)
class _File(ABC):
    path: Path
    name: str
    columns: Columns

    @cached_property
    def rows(self) -> int | None:
        return sum(1 for _ in self.raw(0))

    @cached_property
    def fingerprint(self) -> str:
        """Size and hash of both ends: hashing a large corpus at every start would take minutes."""
        with self.path.open("rb") as file:
            digest = hashlib.sha256(file.read(_SAMPLE))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _SAMPLE, min(size, _SAMPLE)))
            digest.update(file.read(_SAMPLE))
        return f"{size} bytes, sha256 of both ends {digest.hexdigest()[:16]}"

    @abstractmethod
    def raw(self, start: int) -> Iterator[Any]:
        """The rows from an index on, as the file stores them."""

    @abstractmethod
    def parse(self, raw: Any) -> Document | BadRow:
        """The document of a stored row."""

    def _document(self, row: int, values: dict[str, Any]) -> Document | BadRow:
        return document(self.name, row, values, self.columns)


def document(source: str, row: int, values: dict[str, Any], columns: Columns) -> Document | BadRow:
    """The document of a row's values; a `BadRow` holds the reason if it has none."""
    texts = [values[name] for name in (columns.text, columns.pair) if name is not None]
    for name, text in zip((columns.text, columns.pair), texts, strict=False):
        if text is not None and not isinstance(text, str):
            return BadRow(source, row, f"column {name!r} holds a {type(text).__name__}, not a string.")
    if any(text is None or not text or text.isspace() for text in texts):
        return BadRow(source, row, "blank")
    identity = f"{source}:{row}" if columns.id is None else values[columns.id]
    if identity in (None, "") or isinstance(identity, (dict, list, bytes)):
        return BadRow(source, row, f"column {columns.id!r} holds no id.")
    return Document(source, row, str(identity), *texts)


class _Lines(_File):
    """A text file: one text per line."""

    def raw(self, start: int) -> Iterator[tuple[int, str | BadRow]]:
        if self.columns.id is not None or self.columns.pair is not None:
            raise UsageError(
                f"{self.path}: a text file has no columns. Drop --id-column and --pair-column, or name another file."
            )
        return read_text_rows(self.path, start)

    def parse(self, raw: tuple[int, str | BadRow]) -> Document | BadRow:
        row, line = raw
        return line if isinstance(line, BadRow) else self._document(row, {self.columns.text: line})


class _Json(_File):
    """A file of JSON lines."""

    def raw(self, start: int) -> Iterator[tuple[int, str | BadRow]]:
        return read_text_rows(self.path, start)

    def parse(self, raw: tuple[int, str | BadRow]) -> Document | BadRow:
        row, line = raw
        if isinstance(line, BadRow):
            return line
        if not line.strip():
            return BadRow(self.name, row, "blank")
        try:
            values = parse_object(line)
            fault = no_column(self.columns.names, list(values))
            if fault is not None:
                return BadRow(self.name, row, fault)
            # Only an escape sequence can put a lone surrogate into a text.
            if "\\u" in line:
                for name in self.columns.names:
                    check_characters(str(values[name]))
        except SourceError as error:
            return BadRow(self.name, row, str(error))
        return self._document(row, values)


class _Delimited(_File):
    """A CSV or TSV file with a header; rows are numbered by their last line."""

    def raw(self, start: int) -> Iterator[tuple[int, list[str], list[str] | BadRow]]:
        # The module's default limit is shorter than long documents.
        csv.field_size_limit(MAX_ROW_BYTES)
        unreadable: list[BadRow] = []

        def lines() -> Iterator[str]:
            for _, line in read_text_rows(self.path):
                if isinstance(line, BadRow):
                    unreadable.append(line)
                yield "\n" if isinstance(line, BadRow) else f"{line}\n"

        reader = csv.reader(lines(), delimiter=_DELIMITED[_suffix(self.path)], strict=True)
        header = [name.strip() for name in next(reader, [])]
        fault = no_column(self.columns.names, header) if header else None
        if fault is not None:
            raise UsageError(f"{self.path}: {fault}")
        return islice(self._records(reader, header, unreadable), start, None)

    def _records(
        self, reader: Any, header: list[str], unreadable: list[BadRow]
    ) -> Iterator[tuple[int, list[str], list[str] | BadRow]]:
        while True:
            unreadable.clear()
            cells: list[str] | BadRow
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                way_out = "Write a cell that contains a double quote in double quotes, and the quote in it twice."
                cells = BadRow(self.name, reader.line_num, f"wrong quotes ({error}). {way_out}")
            yield reader.line_num, header, unreadable[0] if unreadable else cells

    def parse(self, raw: tuple[int, list[str], list[str] | BadRow]) -> Document | BadRow:
        row, header, cells = raw
        if isinstance(cells, BadRow):
            return cells
        if not any(cell.strip() for cell in cells):
            return BadRow(self.name, row, "blank")
        if len(cells) != len(header):
            return BadRow(self.name, row, f"has {len(cells)} cells, but the header has {len(header)}.")
        return self._document(row, dict(zip(header, cells, strict=True)))


class _Parquet(_File):
    """A Parquet file."""

    @cached_property
    def rows(self) -> int | None:
        return int(self._open().metadata.num_rows)

    def _open(self) -> Any:
        import pyarrow
        import pyarrow.parquet

        try:
            file = pyarrow.parquet.ParquetFile(pyarrow.OSFile(os.fsencode(self.path)))
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{self.path}: not a valid Parquet file ({reason}). Download it again.") from error
        fault = no_column(self.columns.names, file.schema_arrow.names)
        if fault is not None:
            raise UsageError(f"{self.path}: {fault}")
        return file

    def raw(self, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        import pyarrow

        file = self._open()
        groups, row = list(range(file.num_row_groups)), 0
        while groups and row + file.metadata.row_group(groups[0]).num_rows <= start:
            row += file.metadata.row_group(groups.pop(0)).num_rows
        try:
            for batch in file.iter_batches(_TABLE_ROWS, row_groups=groups, columns=self.columns.names):
                skipped = max(0, min(batch.num_rows, start - row))
                columns = {name: batch.column(name) for name in self.columns.names}
                for place in range(skipped, batch.num_rows):
                    yield row + place + 1, {name: column[place] for name, column in columns.items()}
                row += batch.num_rows
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{self.path}, after row {row}: cannot be read ({reason}). Download it again.") from error

    def parse(self, raw: tuple[int, dict[str, Any]]) -> Document | BadRow:
        row, scalars = raw
        try:
            # Arrow does not validate strings when it writes them.
            return self._document(row, {name: scalar.as_py() for name, scalar in scalars.items()})
        except UnicodeDecodeError as error:
            return BadRow(self.name, row, f"not UTF-8 ({error.reason} at byte {error.start} of the text).")


@dataclass(frozen=True)
class _HubSplit:
    """A split of a Hub dataset, streamed."""

    name: str
    fingerprint: str
    columns: Columns
    dataset: Any
    rows: int | None

    @classmethod
    def open(cls, name: str, columns: Columns, split: str, config_name: str | None) -> _HubSplit:
        import datasets
        from huggingface_hub import HfApi

        reference = ModelReference.parse(name)
        place = f"{name} (not a local path, so a dataset of the Hub, split {split})"
        with one_line_errors(place):
            commit = str(HfApi().dataset_info(reference.name, revision=reference.revision).sha)
            try:
                data = datasets.load_dataset(reference.name, config_name, split=split, revision=commit, streaming=True)
            except (ValueError, datasets.exceptions.DatasetsError) as error:
                reason = printable(describe(error))[:_SHOWN_CHARACTERS]
                raise UsageError(f"{place}: {reason} Check --split and --config-name.") from None
            present = data.column_names or list(next(iter(data), {}))
        fault = no_column(columns.names, present)
        if fault is not None:
            raise UsageError(f"{place}: {fault}")
        known = (data.info.splits or {}).get(split)
        rows = None if known is None else known.num_examples
        label = "/".join(filter(None, (reference.name, config_name, split)))
        return cls(label, commit, columns, data.select_columns(columns.names), rows or None)

    def raw(self, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        with one_line_errors(self.name):
            yield from enumerate(self.dataset.skip(start) if start else self.dataset, start=start + 1)

    def parse(self, raw: tuple[int, dict[str, Any]]) -> Document | BadRow:
        row, values = raw
        return document(self.name, row, values, self.columns)
