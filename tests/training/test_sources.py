"""Readers return every document, and errors name the file and the row at fault."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from llm_jp_modernbert.training.data.order import DocumentOrder
from llm_jp_modernbert.training.data.readers import (
    BadRow,
    Document,
    SourceError,
    find_files,
    read_documents,
    read_in_turn,
    read_rows,
)
from llm_jp_modernbert.training.data.sources import excluded_texts, sources_of

TEXTS = ["吾輩は猫である。\n名前はまだ無い。", "二番目の文書", "三番目"]


def json_lines(texts: list[str], key: str = "text") -> bytes:
    return "".join(
        json.dumps({"id": i, key: text}, ensure_ascii=False) + "\n" for i, text in enumerate(texts)
    ).encode()


def write(path: Path, content: bytes) -> str:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def texts_of(path: str, column: str = "text") -> list[str]:
    return [document.text for document in read_documents(path, column)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson", "a.jsonl.gz"])
def test_json_lines_files(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, json_lines(TEXTS))
    assert texts_of(path) == TEXTS
    assert [(d.path, d.row) for d in read_documents(path)] == [(path, 1), (path, 2), (path, 3)]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_blank_lines_separate_text_documents(tmp_path: Path, name: str) -> None:
    content = "\ufeff\n\n一行目\n二行目\r\n \n\n次の文書\n"
    documents = list(read_documents(write(tmp_path / name, content.encode())))
    assert [(d.text, d.row) for d in documents] == [("一行目\n二行目", 3), ("次の文書", 7)]


def test_parquet_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2, 3, 4], "body": [*TEXTS, None]}), path)
    assert texts_of(str(path), "body") == TEXTS
    with pytest.raises(SourceError, match=r"a\.parquet: no column 'text'; the columns are 'n', 'body'.*--text-column"):
        texts_of(str(path))
    with pytest.raises(SourceError, match="holds int64, not strings"):
        texts_of(str(path), "n")


def test_blank_rows_are_skipped_but_counted_in_row_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines(["", "一", " \n", "二"]))
    assert [(d.text, d.row) for d in read_documents(path)] == [("一", 2), ("二", 4)]


GOOD = json_lines(TEXTS[:1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", GOOD + b"{broken\n", "a.jsonl, row 2: not JSON"),
        ("a.jsonl", GOOD + "吾輩\n".encode("shift_jis"), "a.jsonl, row 2: not UTF-8.*iconv"),
        ("a.jsonl", GOOD + b"[1]\n", "row 2: a JSON list"),
        ("a.jsonl", GOOD + b'{"body": "x"}\n', "row 2: no column 'text'; the columns are 'body'.*--text-column"),
        ("a.jsonl", GOOD + b'{"text": 3}\n', "row 2: column 'text' holds a int"),
        ("a.jsonl", b"", "holds no document"),
        ("a.jsonl", json_lines([" "]), "holds no document"),
        ("a.parquet", b"not parquet at all", "not a valid Parquet file"),
    ],
)
def test_error_names_file_and_row(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        texts_of(write(tmp_path / name, content))


def test_truncated_and_mislabelled_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(json_lines([str(i) * 50 for i in range(2000)]))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="ends too early, after row"):
        texts_of(str(path))
    path.write_bytes(json_lines(TEXTS))
    with pytest.raises(SourceError, match="not a valid gzip file"):
        texts_of(str(path))


def test_find_files_of_paths_directories_and_patterns(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    paths = [write(tmp_path / name, GOOD) for name in ("b.jsonl", "a.jsonl.gz", "deep/c.txt", "d.csv")]
    assert find_files([paths[0]]) == [paths[0]]
    assert find_files([str(tmp_path)]) == [paths[1], paths[0], paths[2]]
    assert find_files([str(tmp_path / "*.jsonl*"), paths[0]]) == [paths[1], paths[0]]
    with pytest.raises(SourceError, match="no such file, and no file matches"):
        find_files([str(tmp_path / "nothing*.jsonl")])
    with pytest.raises(SourceError, match=r"d\.csv: unsupported file type"):
        find_files([paths[3]])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="the directory holds no file"):
        find_files([str(tmp_path / "empty")])


def test_read_in_turn_alternates_between_files(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{name}.jsonl", json_lines(texts)) for name, texts in (("a", ["1", "2", "3"]), ("b", ["4"]))
    ]
    assert [document.text for document in read_in_turn(paths)] == ["1", "4", "2", "3"]


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.txt.zst"])
def test_zstd_files(tmp_path: Path, name: str) -> None:
    content = json_lines(TEXTS) if "json" in name else "\n\n".join(TEXTS).encode()
    (tmp_path / name).write_bytes(pyarrow.compress(content, codec="zstd", asbytes=True))
    assert texts_of(str(tmp_path / name)) == TEXTS


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files_of_texts_and_of_ids(tmp_path: Path, stream: bool) -> None:
    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    for name, table in (
        ("texts", pyarrow.table({"text": TEXTS})),
        ("ids", pyarrow.table({"input_ids": [[1, 2], [], [3]], "characters": [4, 0, 2]})),
    ):
        with new(str(tmp_path / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table)
    assert texts_of(str(tmp_path / "texts.arrow")) == TEXTS
    documents = list(read_documents(str(tmp_path / "ids.arrow")))
    assert [(d.ids.tolist(), d.row, d.characters) for d in documents if d.ids is not None] == [
        ([1, 2], 1, 4),
        ([3], 3, 2),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt", "a.parquet"])
def test_reading_resumes_after_any_document(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": [*TEXTS, None, *TEXTS]}), path)
    elif "json" in name:
        write(path, json_lines([*TEXTS, "", *TEXTS]))
    else:
        write(path, "\n\n\n".join([*TEXTS, *TEXTS]).encode())
    whole = list(read_documents(str(path)))
    assert len(whole) == 6
    for index, document in enumerate(whole):
        assert list(read_documents(str(path), start=document.end)) == whole[index + 1 :]


def documents_and_bad_rows(path: str) -> tuple[list[tuple[str, int]], list[BadRow]]:
    rows = list(read_rows(path))
    documents = [(row.text, row.row) for row in rows if isinstance(row, Document)]
    return documents, [row for row in rows if isinstance(row, BadRow)]


def test_bad_rows_are_returned_and_reading_continues(tmp_path: Path) -> None:
    content = b'{"text": "a"}\n\xff\n\n[1]\n{"text": null}\n{"text": 7}\n{"body": ""}\n{"text": "b"}\n'
    content += b'{"text": "\\ud800"}\n{"text": "\\ud83d\\ude00"}\n'
    documents, bad_rows = documents_and_bad_rows(write(tmp_path / "a.jsonl", content))
    assert documents == [("a", 1), ("b", 8), ("😀", 10)]
    assert [row.row for row in bad_rows] == [2, 4, 5, 6, 7, 9]
    assert [row.reason.split()[0] for row in bad_rows] == ["not", "a", "blank", "column", "no", "half"]


UNREADABLE = {"digits": "1" * 5000, "nested": "[" * 200_000 + "]" * 200_000}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("digits", r"JSON that cannot be read \(Exceeds the limit .* 5000 digits\)\. Write such"),
        ("nested", r"JSON that is nested too deeply"),
        ("bytes", r"not UTF-8 \(invalid start byte at byte 1 of the text\)"),
    ],
)
def test_rows_that_python_cannot_parse_are_bad_rows(tmp_path: Path, name: str, reason: str) -> None:
    if name == "bytes":
        path = str(tmp_path / "a.parquet")
        texts = pyarrow.array([b"a", b"b\xff", None, b"c"], pyarrow.binary()).view(pyarrow.string())
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    else:
        rows = ['{"text": "a"}', f'{{"text": "b", "other": {UNREADABLE[name]}}}', '{"text": null}', '{"text": "c"}']
        path = write(tmp_path / "a.jsonl", "\n".join(rows).encode())
    documents, bad_rows = documents_and_bad_rows(path)
    assert documents == [("a", 1), ("c", 4)]
    assert [row.row for row in bad_rows] == [2, 3]
    assert [d.row for d in read_documents(path, start=2)] == [4]
    with pytest.raises(SourceError, match=rf"^{path}, row 2: {reason}"):
        texts_of(path)


def test_file_without_any_document_fails_after_1000_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"body": "a"}\n' * 100_000)
    rows = read_rows(path)
    for _ in range(1000):
        assert isinstance(next(rows), BadRow)
    with pytest.raises(
        SourceError, match=r"none of its first 1,000 rows is a document\. The first: .*row 1: no column"
    ):
        next(rows)


def test_directory_written_by_save_to_disk(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved")
    [path] = find_files([str(tmp_path / "saved")])
    assert texts_of(path) == TEXTS


@pytest.mark.parametrize("kind", ["file", "dataset"])
@pytest.mark.parametrize(
    "ids",
    [
        pyarrow.array([["a"]]),
        pyarrow.array([1, 2]),
        pyarrow.array([[1, None]]),
        pyarrow.array([[1, 2**40]]),
        pyarrow.array([[1.5]]),
        pyarrow.array([[[1]]]),
    ],
    ids=["strings", "flat", "null", "large", "fractions", "nested"],
)
def test_column_that_holds_no_token_ids_is_named(tmp_path: Path, kind: str, ids: pyarrow.Array) -> None:
    path = str(tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"input_ids": ids}), path)
    data = path if kind == "file" else {"path": str(tmp_path), "split": "train"}
    [shard] = sources_of(data, "text")[0].shards
    with pytest.raises(SourceError, match=rf"^{tmp_path}"):
        list(shard.read(0))


def test_counts_of_characters_may_be_missing(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    for column in (["a", "b"], [None, 3]):
        pyarrow.parquet.write_table(pyarrow.table({"input_ids": [[1, 2], [3]], "characters": column}), path)
        documents = list(read_documents(path))
        assert [d.ids.tolist() for d in documents if d.ids is not None] == [[1, 2], [3]]


@pytest.mark.parametrize("kind", ["texts", "ids"])
def test_wrong_offsets_in_a_table_are_named(tmp_path: Path, kind: str) -> None:
    """Arrow does not check them when it opens a file, and would read beyond its memory."""
    table = pyarrow.table({"text": ["a", "bc", "def"]} if kind == "texts" else {"input_ids": [[1], [2, 3], [4, 5, 6]]})
    with pyarrow.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    content = (tmp_path / "a.arrow").read_bytes()
    offsets = struct.pack("<4i", 0, 1, 3, 6)
    assert content.count(offsets) == 1
    path = write(tmp_path / "a.arrow", content.replace(offsets, struct.pack("<4i", 0, 10**9, 3, 6)))
    with pytest.raises(SourceError, match=rf"^{path}: not a valid Arrow file \(.*ffset.*Download it again"):
        list(read_rows(path))


LONG = 10_000_001


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "b.txt", "a.parquet", "dataset"])
def test_document_that_no_tokenizer_has_memory_for_is_reported(tmp_path: Path, name: str) -> None:
    texts = ["一", "二" * LONG, "三" * (LONG - 1)]
    path = tmp_path / name
    if name.endswith("parquet") or name == "dataset":
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    elif name == "b.txt":
        # Many lines without a blank one between them.
        texts[1] = ("二" * 99 + "\n") * (LONG // 100) + "二"
        path.write_text("\n\n".join(texts), encoding="utf-8")
    else:
        write(path, json_lines(texts) if "json" in name else "\n\n".join(texts).encode())
    data = str(path) if name != "dataset" else {"path": str(tmp_path), "split": "train"}
    [shard] = sources_of(data, "text")[0].shards
    first, bad, last = shard.read(0)
    assert isinstance(bad, BadRow)
    assert bad.row == (3 if name.endswith("txt") else 2)
    assert bad.reason == "longer than 10,000,000 characters. Split it into several documents."
    assert [row.text for row in (first, last) if isinstance(row, Document)] == [texts[0], texts[2]]


def test_line_of_an_expanding_file_is_not_kept_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    parts = [b'{"text": "a"}\n{"text": "', *[b"x" * 2**20] * 70, b'"}\n{"text": "b"}\n']
    path.write_bytes(b"".join(map(gzip.compress, parts)))
    documents, bad_rows = documents_and_bad_rows(str(path))
    assert documents == [("a", 1), ("b", 3)]
    assert [str(row) for row in bad_rows] == [f"{path}, row 2: longer than 64 MiB. Split it into several rows."]


def test_file_with_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    for name in (b"a\xff.jsonl", b"b\xff.jsonl.gz"):
        write(Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))), json_lines(TEXTS) + b"{")
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), tmp_path / "c.parquet")
    os.rename(tmp_path / "c.parquet", os.path.join(os.fsencode(tmp_path), b"c\xff.parquet"))
    files = find_files([str(tmp_path)])
    rows = [list(read_rows(file)) for file in files]
    assert [[row.text for row in read if isinstance(row, Document)] for read in rows] == [TEXTS] * 3
    assert "a\\xff.jsonl, row 4: not JSON" in str(rows[0][-1])
    assert "b\\xff.jsonl.gz, row 4: not JSON" in str(rows[1][-1])


@pytest.mark.parametrize("kind", ["file", "dataset"])
def test_excluded_texts_are_never_read(tmp_path: Path, kind: str) -> None:
    """In every epoch, by their text alone, and also from datasets."""
    texts = [*TEXTS, "四番目", TEXTS[1]]
    (folder := tmp_path / "texts").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / "a.parquet")
    held_out = write(tmp_path / "held-out.jsonl", json_lines([TEXTS[1], "他の文書"]))
    data = str(folder) if kind == "file" else {"path": str(folder), "split": "train"}
    order = DocumentOrder(sources_of(data, "text", excluded=excluded_texts(held_out, "text")), seed=0)
    read = [order.next() for _ in range(8)]
    # None ends an epoch.
    expected = [TEXTS[0], TEXTS[2], "四番目", None]
    assert [None if item is None else item[1].text for item in read] == expected * 2


def test_mistakes_in_excluded_texts_are_reported(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^exclude_data: \./missing\.jsonl: no such file"):
        excluded_texts("./missing.jsonl", "text")
    path = str(tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"input_ids": [[1, 2]]}), path)
    held_out = excluded_texts(write(tmp_path / "a.jsonl", json_lines(TEXTS)), "text")
    with pytest.raises(SourceError, match=rf"^{path}: holds token ids, which exclude_data cannot be compared with"):
        DocumentOrder(sources_of(path, "text", excluded=held_out), seed=0).next()
    texts = write(tmp_path / "b.jsonl", json_lines(TEXTS))
    with pytest.raises(SourceError, match=r"every text in them is blank, or excluded"):
        DocumentOrder(sources_of(texts, "text", excluded=held_out), seed=0).next()
