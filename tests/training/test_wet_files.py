"""WET files, which contain the texts of web pages, are read like JSON lines."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from llm_jp_modernbert.training.data.readers import BadRow, Document, SourceError, find_files, read_rows

warcwriter = pytest.importorskip("warcio.warcwriter", reason="warcio is not installed")

TEXTS = ["図書館は毎週月曜日に休みます。\n開館は九時です。\n", "  \n", "駅前に新しい店ができました。\n"]


def write(path: Path, contents: list[bytes]) -> Path:
    with path.open("wb") as file:
        writer = warcwriter.WARCWriter(file, gzip=path.suffix == ".gz")
        writer.write_record(writer.create_warcinfo_record(path.name, {"software": "test"}))
        for number, content in enumerate(contents):
            url = f"https://example.com/{number}"
            writer.write_record(
                writer.create_warc_record(url, "conversion", io.BytesIO(content), warc_content_type="text/plain")
            )
    return path


@pytest.mark.parametrize("name", ["CC-MAIN-2026-00000.warc.wet.gz", "pages.wet"])
def test_texts_of_web_pages_are_documents(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [*(text.encode() for text in TEXTS), b"\xff\xfe"])
    assert find_files([str(tmp_path)]) == [str(path)]
    first, blank, last, broken = read_rows(str(path))
    assert isinstance(first, Document)
    assert isinstance(last, Document)
    assert (first.text, last.text, last.row) == (TEXTS[0], TEXTS[2], 3)
    assert isinstance(blank, BadRow)
    assert blank.is_blank
    assert isinstance(broken, BadRow)
    assert str(broken) == f"{path}, row 4: not UTF-8"
    assert [row.row for row in read_rows(str(path), start=2)] == [3, 4]


def test_truncated_file_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "pages.wet.gz", [text.encode() * 500 for text in TEXTS])
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(
        SourceError, match=rf"^{path}: corrupt WET file after record 3 \(the file ends inside a record\)"
    ):
        list(read_rows(str(path)))
    path.write_bytes(b"not WARC")
    with pytest.raises(SourceError, match=rf"^{path}: corrupt WET file after record 0"):
        list(read_rows(str(path)))
