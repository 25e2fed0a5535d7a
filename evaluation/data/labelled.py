"""Labelled examples of JGLUE and JCoLA from the Hub, from the data folder, or from the user's training files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import fingerprint
from llm_jp_modernbert.core.text_files import json_lines

from .options import Options
from .readers import find, hub_files

_REPOSITORY = "shunk031/JGLUE"
_PARQUET = "refs/convert/parquet"
"""Branch with the Parquet files that the Hub converts."""


def read_split(
    config: str,
    split: str,
    pattern: str,
    publisher: str,
    options: Options,
    read: Callable[[Path], Iterable[tuple[str, dict[str, Any]]]] = json_lines,
) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    """Reads a split.

    Args:
        config: configuration of the Hub dataset.
        split: `train` or `validation`.
        pattern: glob pattern of the local files.
        publisher: origin of the local files, for the error message if they are missing.
        options: where to read from.
        read: reads one local file in the official layout.

    Returns:
        The rows, each with its file and line, and their revision.

    Raises:
        UsageError: the data are missing or empty.
    """
    if split == "train" and options.train_files:
        files = list(options.train_files)
        for path in files:
            if not path.is_file():
                raise UsageError(f"--train-file {path}: no such file.")
    elif options.data_dir is not None:
        files = find(options.data_dir, pattern, f"{config} ({publisher}), or set --train-file")
    else:
        return _from_hub(config, split)
    rows = [row for path in files for row in read(path)]
    if not rows:
        raise UsageError(f"{files[0]}: contains no example.")
    return rows, fingerprint(files)


def _from_hub(config: str, split: str) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    from datasets import Dataset

    pattern = f"{config}/{split}/*.parquet"
    folder, commit = hub_files(_REPOSITORY, pattern, _PARQUET)
    files = sorted(folder.glob(pattern))
    if not files:
        raise UsageError(f"dataset {_REPOSITORY} has no {split} split of {config} at {_PARQUET}.")
    table = Dataset.from_parquet([str(path) for path in files])
    labels = {key: feature for key, feature in table.features.items() if hasattr(feature, "int2str")}
    rows = []
    for number, row in enumerate(table, start=1):
        named = {**row, **{key: feature.int2str(row[key]) for key, feature in labels.items()}}
        rows.append((f"{_REPOSITORY} {config}, {split} row {number}", named))
    return rows, commit
