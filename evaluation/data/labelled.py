"""Labelled examples as rows with their place: from the Hub, the data folder, or the user's files to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError

from ..tasks.task import Options
from .readers import find, fingerprint, hub_files, numbered_json_lines

Place = str
"""Where a row stands, for messages: a file and a line."""

JGLUE = "shunk031/JGLUE"
"""The repository of JGLUE and JCoLA on the Hub."""

_PARQUET = "refs/convert/parquet"


@dataclass(frozen=True)
class Source:
    """Where one split of a task lies.

    Attributes:
        name: of the data, as results call it.
        repository: on the Hub, of which the Hub's own Parquet files are read.
        config: its configuration there.
        pattern: of the local files, with their folder.
        wanted: what to get where these are missing, and from where.
    """

    name: str
    repository: str
    config: str
    pattern: str
    wanted: str


@dataclass(frozen=True)
class Labelled:
    """Rows that were read, the name of their data, its revision, and the names of the user's files."""

    name: str
    revision: str
    rows: list[tuple[Place, dict[str, Any]]]
    train_files: tuple[str, ...] = ()


def lines(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Rows of a JSON-lines file."""
    for number, row in numbered_json_lines(path):
        yield f"{path}, line {number}", row


def read_split(
    source: Source,
    split: str,
    options: Options,
    read: Callable[[Path], Iterable[tuple[Place, dict[str, Any]]]] = lines,
) -> Labelled:
    """The rows of a split.

    Args:
        source: where it lies.
        split: `train` or `validation`.
        options: where to read from.
        read: gives the rows of a file of the official layout.

    Raises:
        UsageError: it cannot be had, or holds no row.
    """
    if split == "train" and options.train_files:
        for path in options.train_files:
            if not path.is_file():
                raise UsageError(f"--train-file {path}: no such file.")
        files = list(options.train_files)
        names = tuple(path.name for path in files)
    elif options.data_dir is None:
        return _of_hub(source, split)
    else:
        files = find(options.data_dir, source.pattern, source.wanted)
        names = ()
    rows = [row for path in files for row in read(path)]
    if not rows:
        raise UsageError(f"{files[0]}: holds no example.")
    return Labelled(source.name, fingerprint(files), rows, names)


def _of_hub(source: Source, split: str) -> Labelled:
    from datasets import Dataset

    folder, commit = hub_files(source.repository, f"{source.config}/{split}/*.parquet", _PARQUET)
    files = sorted(folder.glob(f"{source.config}/{split}/*.parquet"))
    if not files:
        raise UsageError(f"dataset {source.repository} has no {split} split of {source.config} at {_PARQUET}.")
    table = Dataset.from_parquet([str(path) for path in files])
    named = {key: feature for key, feature in table.features.items() if hasattr(feature, "int2str")}
    rows = []
    for number, row in enumerate(table, start=1):
        named_row = {**row, **{key: feature.int2str(row[key]) for key, feature in named.items()}}
        rows.append((f"{source.repository} {source.config}, {split} row {number}", named_row))
    return Labelled(source.name, commit, rows)
