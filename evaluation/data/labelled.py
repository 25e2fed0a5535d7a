"""Labelled examples from the Hub, from the data folder, or from the user's training files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError

from .options import Options
from .readers import find, fingerprint, hub_files, numbered_json_lines

Place = str
"""File and line of a row, for error messages."""

JGLUE = "shunk031/JGLUE"
"""Hub repository of JGLUE and JCoLA."""

_PARQUET = "refs/convert/parquet"


@dataclass(frozen=True)
class Source:
    """Location of one split of a dataset.

    Attributes:
        name: dataset name in results.
        repository: Hub repository, read from the Parquet files that the Hub converts.
        config: configuration in that repository.
        pattern: glob pattern of the local files.
        wanted: name and origin of the files, for the error message if they are missing.
    """

    name: str
    repository: str
    config: str
    pattern: str
    wanted: str


@dataclass(frozen=True)
class Labelled:
    """Rows of a split with their places; `train_files` names the user's files, if the rows come from them."""

    name: str
    revision: str
    rows: list[tuple[Place, dict[str, Any]]]
    train_files: tuple[str, ...] = ()


def lines(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Rows of a JSON-lines file with their places."""
    for number, row in numbered_json_lines(path):
        yield f"{path}, line {number}", row


def read_split(
    source: Source,
    split: str,
    options: Options,
    read: Callable[[Path], Iterable[tuple[Place, dict[str, Any]]]] = lines,
) -> Labelled:
    """Reads the rows of a split.

    Args:
        source: location of the split.
        split: `train` or `validation`.
        options: where to read from.
        read: reads one local file in the official layout.

    Raises:
        UsageError: the data are missing or empty.
    """
    names: tuple[str, ...] = ()
    if split == "train" and options.train_files:
        files = list(options.train_files)
        names = tuple(path.name for path in files)
        for path in files:
            if not path.is_file():
                raise UsageError(f"--train-file {path}: no such file.")
    elif options.data_dir is not None:
        files = find(options.data_dir, source.pattern, source.wanted)
    else:
        return _from_hub(source, split)
    rows = [row for path in files for row in read(path)]
    if not rows:
        raise UsageError(f"{files[0]}: contains no example.")
    return Labelled(source.name, fingerprint(files), rows, names)


def _from_hub(source: Source, split: str) -> Labelled:
    from datasets import Dataset

    pattern = f"{source.config}/{split}/*.parquet"
    folder, commit = hub_files(source.repository, pattern, _PARQUET)
    files = sorted(folder.glob(pattern))
    if not files:
        raise UsageError(f"dataset {source.repository} has no {split} split of {source.config} at {_PARQUET}.")
    table = Dataset.from_parquet([str(path) for path in files])
    labels = {key: feature for key, feature in table.features.items() if hasattr(feature, "int2str")}
    rows = []
    for number, row in enumerate(table, start=1):
        named = {**row, **{key: feature.int2str(row[key]) for key, feature in labels.items()}}
        rows.append((f"{source.repository} {source.config}, {split} row {number}", named))
    return Labelled(source.name, commit, rows)
