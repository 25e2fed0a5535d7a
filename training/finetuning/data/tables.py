"""Rows of the user's data: local files, folders of files, or datasets of the Hub."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError, describe
from llm_jp_modernbert.core.files import fingerprint, parse_json
from llm_jp_modernbert.core.hub_errors import one_line_errors
from llm_jp_modernbert.core.references import ModelReference, is_repository
from llm_jp_modernbert.core.terminal import printable
from llm_jp_modernbert.core.text_files import MAX_ROW_BYTES, read_json_lines, read_lines, read_rows, read_text

from .conll import conll_rows
from .squad import MAX_JSON_BYTES, squad_rows

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]

_JSON = (".jsonl", ".json", ".ndjson")
_DELIMITED = {".csv": ",", ".tsv": "\t"}
_CONLL = (".conll", ".bio", ".iob", ".iob2", ".txt", ".tsv")
_PARQUET = ".parquet"
_TEXT = ".txt"
_SUFFIXES_OF_KIND = {"ner": _CONLL, "retrieval": (_TEXT,)}
_COMPRESSED = (".gz", ".zst")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""Words in file names that assign the files of a folder to a split, like those of `datasets`."""
_SHOWN_COLUMNS = 20
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class Table:
    """Rows of one part of the data.

    Attributes:
        name: name of the dataset: a repository, or the names of files and folders joined by `+`.
        revision: commit of the repository, or `sha256:…` of the files.
        columns: names of all columns; keys of nested objects follow a dot.
        rows: all rows, each with its file and row number.
        unused: files of folders and splits of repositories that belong to other parts by their names.
    """

    name: str
    revision: str
    columns: tuple[str, ...]
    rows: list[tuple[str, Row]] = field(repr=False)
    unused: tuple[str, ...] = ()

    def unused_remark(self) -> str:
        """A line for the user about the unused files of training data."""
        return (
            f"--train {self.name}: {listed(self.unused)} belong to other parts by their names. Name it for "
            "--validation and --test as well to use them."
        )


@dataclass(frozen=True)
class Source:
    """Where rows come from: local files, the three files of a BEIR dataset, or one split of a repository."""

    name: str
    files: tuple[Path, ...] = ()
    repository: ModelReference | None = None
    is_beir: bool = False


def read_table(option: str, sources: Sequence[str], kind: str, split: str, config_name: str | None = None) -> Table:
    """Reads and concatenates all sources of one part of the data.

    Args:
        option: `--train`, `--validation`, `--test` or `--corpus`.
        sources: files, glob patterns, folders, or `ORG/NAME[@REVISION]`.
        kind: type of task; `ner` reads CoNLL files, `qa` and `retrieval` read SQuAD's JSON, `retrieval` reads the
            lines of text files.
        split: split of a Hub dataset.
        config_name: configuration of a Hub dataset.

    Raises:
        UsageError: a source is missing, unreadable or empty, or the columns of two files differ.
    """
    unused: list[str] = []
    found = [_find(option, source, kind, unused) for source in sources]
    files = [path for source in found for path in source.files]
    revisions = [fingerprint(files)] if files else []
    tables = []
    for source in found:
        if source.repository is not None:
            rows, commit = _hub_rows(option, source.repository, split, config_name, unused)
            revisions.append(commit)
            tables.append((source.name, rows))
        elif source.is_beir:
            tables.append((source.name, _beir_rows(source.files)))
        else:
            tables += [(str(path), list(_file_rows(path, kind))) for path in source.files]
    for name, rows in tables:
        if not any(row for _, row in rows):
            raise UsageError(f"{option} {name}: contains no rows.")
    columns = [_columns(rows) for _, rows in tables]
    for (name, _), found_columns in zip(tables[1:], columns[1:], strict=True):
        if {key.partition(".")[0] for key in found_columns} != {key.partition(".")[0] for key in columns[0]}:
            raise UsageError(
                f"{option}: {tables[0][0]} has the columns {listed(columns[0])}, but {name} has "
                f"{listed(found_columns)}. Give all files the same columns."
            )
    rows = [row for _, rows in tables for row in rows]
    every_column = tuple(dict.fromkeys(column for part in columns for column in part))
    return Table("+".join(source.name for source in found), "+".join(revisions), every_column, rows, tuple(unused))


def cell(row: Row, column: str) -> Any:
    """The value of a column, which may be a dotted path into nested objects; None if it is missing."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def listed(columns: Sequence[str]) -> str:
    """Names of columns for a message."""
    names = ", ".join(repr(column) for column in columns[:_SHOWN_COLUMNS])
    return names + (f" and {len(columns) - _SHOWN_COLUMNS} more" if len(columns) > _SHOWN_COLUMNS else "")


def _columns(rows: Sequence[tuple[str, Row]]) -> tuple[str, ...]:
    columns: dict[str, None] = {}
    for _, row in rows:
        for key, value in row.items():
            columns[key] = None
            if isinstance(value, dict):
                columns.update(dict.fromkeys(f"{key}.{nested}" for nested in value))
    return tuple(columns)


def _suffix(path: str | Path) -> str:
    name = str(path).lower()
    for compressed in _COMPRESSED:
        name = name.removesuffix(compressed)
    return os.path.splitext(name)[1]


def _suffixes(kind: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*_DELIMITED, *_JSON, _PARQUET, *_SUFFIXES_OF_KIND.get(kind, ()))))


def _find(option: str, source: str, kind: str, unused: list[str]) -> Source:
    """Finds the files of a source; a name that is neither a path nor a pattern is a repository."""
    path = Path(os.path.expanduser(source))
    supported = _suffixes(kind)
    if kind == "retrieval" and (path / "qrels").is_dir():
        return _beir_source(option, path)
    if source and path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and _suffix(file) in supported)
        files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not files:
            raise UsageError(f"{option} {source}: the folder has no file of a supported type ({' '.join(supported)}).")
        return Source(path.resolve().name, tuple(_of_split(option, path, files, unused)))
    files = [path] if path.is_file() else sorted(Path(file) for file in glob.glob(str(path), recursive=True))
    files = [file for file in files if file.is_file()]
    if not files:
        if _suffix(source) in supported or not is_repository(source.partition("@")[0]):
            raise UsageError(f"{option} {source}: no such file, and not the name of a dataset of the Hub (ORG/NAME).")
        reference = ModelReference.parse(source)
        return Source(reference.name, repository=reference)
    for file in files:
        if _suffix(file) not in supported:
            raise UsageError(f"{option} {file}: unsupported file type for {kind}. Supported: {' '.join(supported)}.")
    return Source("+".join(file.name for file in files), tuple(files))


def _beir_source(option: str, folder: Path) -> Source:
    """The files of a folder in BEIR's layout; for `--corpus`, only its passages."""
    corpus, queries = (sorted(folder.glob(f"{part}.jsonl*")) for part in ("corpus", "queries"))
    if not corpus or not queries:
        raise UsageError(f"{option} {folder}: has qrels, but not corpus.jsonl and queries.jsonl as in BEIR's layout.")
    if option == "--corpus":
        return Source(folder.resolve().name, (corpus[0],))
    names = _SPLITS[option.removeprefix("--")]
    tables = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
    table = next((tables[name] for name in names if name in tables), None)
    if table is None:
        wanted = " or ".join(f"{name}.tsv" for name in names)
        raise UsageError(f"{option} {folder}/qrels: has no {wanted}. It has {listed(list(tables)) or 'no table'}.")
    return Source(folder.resolve().name, (corpus[0], queries[0], table), is_beir=True)


def _beir_rows(files: Sequence[Path]) -> list[tuple[str, Row]]:
    """Queries of a BEIR dataset with their relevant passages."""
    from llm_jp_modernbert.inference.retrieval.beir import read_beir

    search = read_beir(*files)
    return [
        (f"{files[2]}, query {query}", {"query": text, "positive": [search.corpus[name] for name in relevant]})
        for query, relevant in search.relevant.items()
        if (text := search.queries.get(query))
    ]


def _of_split(option: str, folder: Path, files: Sequence[Path], unused: list[str]) -> list[Path]:
    """The files of a folder that belong to a split by their names; all, if no name has the word of a split."""
    words = {file: set(re.split(r"[\W\d_]+", str(file.relative_to(folder)).lower())) for file in files}
    splits = {
        file: next((split for split, names in _SPLITS.items() if words[file].intersection(names)), None)
        for file in files
    }
    if not any(splits.values()):
        return list(files)
    chosen = [file for file in files if splits[file] == option.removeprefix("--")]
    if option == "--train" and not chosen:
        chosen = [file for file in files if splits[file] is None]
    if not chosen:
        names = ", ".join(sorted({split for split in splits.values() if split}))
        raise UsageError(f"{option} {folder}: the names of its files belong to {names}. Name the files instead.")
    unused += [str(file.relative_to(folder)) for file in files if file not in chosen]
    return chosen


def _file_rows(path: Path, kind: str) -> Rows:
    suffix = _suffix(path)
    if kind == "ner" and suffix in _CONLL:
        return conll_rows(path)
    if suffix == _TEXT:
        return ((f"{path}, row {number}", {"text": line} if line.strip() else {}) for number, line in read_lines(path))
    if suffix in _DELIMITED:
        return _delimited_rows(path, _DELIMITED[suffix])
    if suffix == _PARQUET:
        return _parquet_rows(path)
    return _json_rows(path, kind)


def _delimited_rows(path: Path, delimiter: str) -> Rows:
    """Rows of a CSV or TSV file; as in a spreadsheet, the header is row 1. All cells are texts."""
    # The module's default limit is shorter than long documents.
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"{path}: two columns have the name {twice!r}. Rename one.")
        for number, cells in enumerate(reader, start=2):
            if not any(text.strip() for text in cells):
                yield f"{path}, row {number}", {}
                continue
            if len(cells) != len(header):
                raise UsageError(
                    f"{path}, row {number}: has {len(cells)} cells, but the header has {len(header)}. Write a cell "
                    f"that contains {delimiter!r} in double quotes."
                )
            yield f"{path}, row {number}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UsageError(
            f"{path}, line {reader.line_num}: wrong quotes ({error}). Write a cell that contains a double quote in "
            "double quotes, and the quote in it twice."
        ) from None


def _json_rows(path: Path, kind: str) -> Rows:
    """Objects of JSON lines or of a JSON list, or the questions of a SQuAD file."""
    first = next((line for _, line in read_rows(path) if isinstance(line, str) and line.strip()), "")
    if first.lstrip().startswith("["):
        rows = parse_json(
            read_text(path), f"{path}: not a JSON list of objects", list[dict[str, Any]], max_bytes=MAX_JSON_BYTES
        )
        return ((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))
    if kind in ("qa", "retrieval") and _is_squad(path, first):
        return squad_rows(path)
    return ((f"{path}, row {number}", row) for number, row in read_json_lines(path))


def _is_squad(path: Path, first: str) -> bool:
    """Whether a JSON file with this first line is one object instead of one per line."""
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        return _suffix(path) == ".json"
    return isinstance(row, dict) and "data" in row and "question" not in row


def _parquet_rows(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet
    from datasets import Features

    try:
        table = pyarrow.parquet.read_table(path)
        rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: not a valid Parquet file ({reason}). Write it again.") from None
    features = Features.from_arrow_schema(table.schema)
    return ((f"{path}, row {number}", _named(row, features)) for number, row in enumerate(rows, start=1))


def _hub_rows(
    option: str, reference: ModelReference, split: str, config_name: str | None, unused: list[str]
) -> tuple[list[tuple[str, Row]], str]:
    """Rows of a split of a Hub dataset, and its commit."""
    import datasets
    from huggingface_hub import HfApi

    name, place = reference.name, f"{option} {reference} (not a local path, so a dataset of the Hub, split {split})"
    with one_line_errors(place):
        commit = str(HfApi().dataset_info(name, revision=reference.revision).sha)
        try:
            data = datasets.load_dataset(name, config_name, split=split, revision=commit)
        except (ValueError, datasets.exceptions.DatasetsError) as error:
            # An unknown configuration or split, or files of another layout.
            reason = printable(describe(error))[:_SHOWN_CHARACTERS]
            raise UsageError(f"{place}: {reason} Check --config-name and {option}-split.") from None
        rows = [
            (f"{name}, {split} row {number}", _named(row, data.features)) for number, row in enumerate(data, start=1)
        ]
    unused += [other for other in data.info.splits or () if other != split]
    return rows, commit


def _named(value: Any, feature: Any) -> Any:
    """A value with the names of labels instead of their numbers; -1 stands for a missing label."""
    from datasets import ClassLabel

    if isinstance(feature, ClassLabel):
        return None if value is None or value < 0 else feature.int2str(value)
    if isinstance(value, dict) and isinstance(feature, dict):
        return {key: _named(item, feature[key]) for key, item in value.items()}
    inner = getattr(feature, "feature", None)
    if isinstance(value, list) and inner is not None:
        return [_named(item, inner) for item in value]
    return value
