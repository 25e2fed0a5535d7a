"""Text files and standard input are read alike: like Python's own text mode, in bounded memory, with errors by row."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from llm_jp_modernbert.core.text_files import BadRow, SourceError, read_json_lines, read_lines, read_rows, read_text

Write = Callable[[bytes], str]
TEXT = "吾輩は猫である。\n名前はまだ無い。\n"


@pytest.fixture(params=["plain", "gz", "zst", "stdin"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes bytes as a source of some kind and returns its name."""

    def write(content: bytes) -> str:
        if request.param == "stdin":
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
            return "-"
        path = tmp_path / ("a.txt" if request.param == "plain" else f"a.txt.{request.param}")
        if request.param == "gz":
            content = gzip.compress(content)
        if request.param == "zst":
            content = pyarrow.compress(content, codec="zstd", asbytes=True)
        path.write_bytes(content)
        return str(path)

    return write


CHUNK = 1 << 20
CONTENTS = {
    "mark": b"\xef\xbb\xbfa\nb",
    "windows": "一\r\n二\r\n\r\n三\r\n".encode(),
    "mac": "一\r二\r\r三".encode(),
    "separators": "一\u2028二\x0b三\x0c\x1c四\u0085五\n六".encode(),
    "empty": b"",
    "blank": b"\n\n",
    **{f"border{n}": b"a" * (CHUNK - n) + b"\r\nb\r\r\nc\rd" for n in range(6)},
    "long": b"a" * (3 * CHUNK) + b"\n" + b"b" * CHUNK,
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_lines_equal_those_of_text_mode(source: Write, content: bytes) -> None:
    expected = [
        line.removesuffix("\n") for line in io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline=None)
    ]
    assert list(read_lines(source(content))) == list(enumerate(expected, start=1))
    assert read_text(source(content)).split("\n") == (expected or [""])
    assert list(read_rows(source(content), start=1)) == list(enumerate(expected[1:], start=2))


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp", "utf-16", "utf-16-be"])
def test_hint_names_an_encoding_that_reads_the_file(source: Write, encoding: str) -> None:
    text = TEXT + "①" * (encoding == "cp932")  # not in Shift_JIS
    content = ("\ufeff" * (encoding == "utf-16-be") + text).encode(encoding)
    name = source(content)
    for read in (read_text, lambda name: list(read_lines(name))):
        with pytest.raises(SourceError) as error:
            read(source(content))
        shown = "standard input" if name == "-" else name
        assert str(error.value).startswith(shown)
        assert "not UTF-8" in str(error.value)
        hint = str(error.value).partition("iconv -f ")[2].split()[0]
        assert content.decode(hint) == text


@pytest.mark.parametrize("content", [b"a\nb\xff\nc\n", b"a\r\nb\xff\r\nc", b"a\rb\xed\xa0\x80\rc", b"a\nb\xe3\x81"])
def test_bytes_that_are_not_utf8_are_reported_by_row(source: Write, content: bytes) -> None:
    rows = list(read_rows(source(content)))
    assert [row for row, line in rows if isinstance(line, BadRow)] == [2]
    assert rows[0] == (1, "a")
    assert rows[2:] == [(3, "c")] * content.endswith((b"c", b"c\n"))
    for read in (read_text, lambda name: list(read_lines(name))):
        with pytest.raises(SourceError, match=r", row 2: not UTF-8 \(.* at byte 1 of the row\)"):
            read(source(content))


def test_json_lines_are_objects_of_valid_characters(source: Write) -> None:
    rows = [{"text": "😀"}, {"text": ["\\ud83d"]}, {}]
    content = "\n\n".join(json.dumps(row) for row in rows)
    assert list(read_json_lines(source(content.encode()))) == [(1, rows[0]), (3, rows[1]), (5, rows[2])]
    for bad, reason in {
        '{"a": {"\\uD83D": 1}}': "half of a surrogate pair",
        '{"a": ["x\\ude00"]}': "half of a surrogate pair",
        "[1]": "a JSON list",
        "{": "not JSON",
        "[" * 100_000: "nested too deeply",
    }.items():
        with pytest.raises(SourceError, match=rf", row 2: .*{reason}"):
            list(read_json_lines(source(f"\ufeff{{}}\r\n{bad}\r\n".encode())))


def test_memory_is_bounded_however_long_a_line_is(tmp_path: Path) -> None:
    """A megabyte of gzip can expand to a line of a gigabyte."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"a\n") + gzip.compress(bytes(CHUNK)) * 300 + gzip.compress(b"\nb\n"))
    tracemalloc.start()
    try:
        rows = list(read_rows(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * CHUNK
    assert [row for row, _ in rows] == [1, 2, 3]
    assert rows[2] == (3, "b")
    assert str(rows[1][1]) == f"{path}, row 2: longer than 64 MiB. Split it into several rows."


@pytest.mark.parametrize("name", ["a.gz", "a.zst"])
def test_damaged_compressed_files_are_named(tmp_path: Path, name: str) -> None:
    content = "".join(f"{number * number}\n" for number in range(100_000)).encode()
    whole = gzip.compress(content) if name == "a.gz" else pyarrow.compress(content, codec="zstd", asbytes=True)
    for damaged in (whole[: len(whole) // 2], b"text\n", whole[:-9] + b"x" * 9):
        (tmp_path / name).write_bytes(damaged)
        for read in (read_text, lambda path: list(read_lines(path))):
            with pytest.raises(SourceError, match=rf"^{tmp_path / name}.*[Dd]ownload it again"):
                read(tmp_path / name)


def test_missing_and_unreadable_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.txt\.gz: no such file\.$"):
        read_text(tmp_path / "none.txt.gz")
    with pytest.raises(SourceError, match=rf"^{tmp_path}: cannot be read: Is a directory\.$"):
        list(read_lines(tmp_path))
