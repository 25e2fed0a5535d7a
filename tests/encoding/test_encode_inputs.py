"""Inputs of `encode`: every format gives the same texts, from any row on."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.text_files import BadRow
from llm_jp_modernbert.encoding.inputs import Columns, Document, open_inputs

TEXTS = ["吾輩は猫である。", '"引用"、と「改行」', "", "名前はまだ無い。", "a,b\tc"]
ROWS = [{"text": text, "key": number, "other": "x"} for number, text in enumerate(TEXTS, start=10)]
WITH_ID = Columns("text", id="key")


def write(folder: Path, suffix: str) -> Path:
    """Writes the rows in a format."""
    path = folder / f"texts{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=2)
    elif suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter="," if suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
        path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    return path


def read(path: Path, columns: Columns = WITH_ID, start: int = 0, count: int = 100) -> list[Any]:
    """Reads rows of a fresh input."""
    return list(open_inputs([str(path)], columns).read(start, count))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet"])
def test_formats_give_the_same_texts_from_any_row(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix)
    rows = read(path)
    expected = [(str(row["key"]), row["text"]) for row in ROWS if row["text"]]
    assert [(row.id, row.text) for row in rows if isinstance(row, Document)] == expected
    assert [row.is_blank for row in rows if isinstance(row, BadRow)] == [True]
    inputs = open_inputs([str(path), str(path)], WITH_ID)
    assert inputs.rows == 2 * len(ROWS)
    whole = list(inputs.read(0, 100))
    for start in (3, 0, 7, 4, 5, 10):
        assert list(inputs.read(start, 3)) == whole[start : start + 3]


def test_lines_of_text_files_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("一行目\n\n三行目\r\n四行目", encoding="utf-8")
    rows = [row for row in read(path, Columns("text")) if isinstance(row, Document)]
    assert [(row.id, row.text) for row in rows] == [
        ("lines.txt:1", "一行目"),
        ("lines.txt:3", "三行目"),
        ("lines.txt:4", "四行目"),
    ]


def test_ids_distinguish_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text("猫\n", encoding="utf-8")
    assert [row.id for row in read(tmp_path, Columns("text"))] == ["a/x.txt:1", "b/x.txt:1"]
    inputs = open_inputs([str(tmp_path / name / "x.txt") for name in ("a", "b")], Columns("text"))
    assert len({row.id for row in inputs.read(0, 2) if isinstance(row, Document)}) == 2


def test_multi_line_cells_are_one_row(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    path.write_bytes('text,key\r\n"一\r\n二",1\r\n三,2\r\n"四,3\r\n'.encode())
    first, second, third = read(path)
    assert (first.text, second.text) == ("一\n二", "三")
    assert isinstance(third, BadRow)
    assert "wrong quotes" in third.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": 3, "key": 1}', "not a string"),
        (b'{"text": "\\ud800", "key": 1}', "surrogate"),
        (b'{"body": "x"}', "no column 'text'; the columns are 'body'"),
        (b'{"text": "x"', "not JSON"),
        ('{"text": "日本語の文", "key": 1}'.encode("euc-jp"), "EUC-JP"),
        (b'{"text": "x", "key": null}', "'key' holds no id"),
        (b'{"text": "x", "key": ""}', "'key' holds no id"),
    ],
)
def test_unreadable_rows_are_named(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "x", "key": 1}\n' + line + b'\n{"text": "y", "key": 2}\n')
    _, bad, last = read(path)
    assert isinstance(bad, BadRow)
    assert bad.row == 2
    assert reason in bad.reason
    assert last.text == "y"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows"),
        ("\n \n", "only 2 blank rows"),
        ('{"body": "x"}\n', "none of the first 1 rows is a text.*'body'"),
    ],
)
def test_inputs_without_text_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        open_inputs([str(path)], Columns("text")).check()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_missing_columns_are_named_with_those_present(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UsageError, match="no column 'body'; the columns are 'text', 'key', 'other'"):
        read(write(tmp_path, suffix), Columns("body"))


def test_missing_files_and_unknown_types_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pdf").write_bytes(b"x")
    for name, message in [("y.jsonl", "no such file"), ("x.pdf", "unsupported file type"), ("", "no file of a")]:
        with pytest.raises(UsageError, match=message):
            open_inputs([str(tmp_path / name)], Columns("text"))


def test_options_of_hub_datasets_are_refused_for_files(tmp_path: Path) -> None:
    path = write(tmp_path, ".jsonl")
    for option, name in [("split", "--split"), ("config_name", "--config-name")]:
        with pytest.raises(UsageError, match=f"{name} is for datasets"):
            open_inputs([str(path)], WITH_ID, **{option: "x"})


@pytest.mark.usefixtures("default_hub")
def test_datasets_of_the_hub_are_streamed_from_any_row() -> None:
    rows = [{"text": f"第{number}行", "key": f"k{number}"} for number in range(20)]
    commit = Dataset.from_list(rows).push_to_hub("org/data", "few", split="dev", num_shards=2).oid
    inputs = open_inputs(["org/data@main"], Columns("text", id="key"), "dev", "few")
    (source,) = inputs.sources
    assert (source.rows, source.fingerprint) == (20, commit)
    for start in (0, 15, 7):
        assert [(row.id, row.text) for row in inputs.read(start, 4)] == [
            (row["key"], row["text"]) for row in rows[start:][:4]
        ]
    for column, options, message in (
        ("text", {}, "Check --split and"),
        ("text", {"split": "dev", "config_name": "x"}, "Check --split and"),
        ("body", {"split": "dev", "config_name": "few"}, "no column 'body'"),
    ):
        with pytest.raises(UsageError, match=message):
            open_inputs(["org/data"], Columns(column), **options)


def test_repeated_columns_are_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], ["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("text,text\na,b\n")
    for name in ("x.parquet", "x.csv"):
        with pytest.raises(UsageError, match="the column 'text' twice"):
            read(tmp_path / name, Columns("text"))


def test_names_of_files_are_arbitrary_bytes_and_upper_case(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.TXT.GZ")
    path.write_bytes(gzip.compress("猫\n".encode()))
    assert [(row.id, row.text) for row in read(path, Columns("text"))] == [("\\xff.TXT.GZ:1", "猫")]
