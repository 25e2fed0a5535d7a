"""Data files as other programs write them: byte-order marks, line breaks, encodings and broken JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_data import make_task, write_lines

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.data.options import Data, Options
from llm_jp_modernbert.evaluation.data.readers import SearchData
from llm_jp_modernbert.evaluation.tasks.finetuning import Splits

QUESTIONS = ["猫は何か", "犬は何か", "鳥は何か"]
LAYOUTS = {
    "retrieval:miracl": "*miracl*.tsv miracl-corpus*/*",
    "retrieval:beir": "beir/*.jsonl beir/qrels/*",
    "retrieval:jsquad": "jsquad-v1.3/*",
    "retrieval:jaquad": "jaquad*",
    "similarity": "*miracl*.tsv miracl-corpus*/*",
    "fill-mask": "prompts.jsonl",
    "pseudo-perplexity": "texts.jsonl",
    "jsts": "jsts-v1.3/*",
    "jsquad": "jsquad-v1.3/*",
    "jcola": "in_domain*",
    "ner": "ner.json",
}
"""Tasks, and patterns of the files that they read."""


@pytest.fixture(scope="module")
def data_folder(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every layout; the judgements of BEIR have no heading."""
    folder = tmp_path_factory.mktemp("every-layout") / "data"
    shutil.copytree(small_data, folder)
    passages = [{"docid": f"{number}#0", "title": "題", "text": text} for number, text in enumerate(QUESTIONS)]
    write_lines(folder / "miracl-corpus-v1.0-ja/docs-0.jsonl", passages)
    for split in ("dev", "train"):
        topics = "".join(f"{number}\t{text}\n" for number, text in enumerate(QUESTIONS))
        (folder / f"topics.miracl-v1.0-ja-{split}.tsv").write_text(topics, encoding="utf-8")
        judged = "".join(f"{number}\tQ0\t{(number + other) % 3}#0\t1\n" for number in range(3) for other in (0, 1))
        (folder / f"qrels.miracl-v1.0-ja-{split}.tsv").write_text(judged, encoding="utf-8")
    write_lines(folder / "beir/corpus.jsonl", [{"_id": row["docid"], "text": row["text"]} for row in passages])
    write_lines(folder / "beir/queries.jsonl", [{"_id": str(n), "text": text} for n, text in enumerate(QUESTIONS)])
    (folder / "beir/qrels").mkdir()
    (folder / "beir/qrels/test.tsv").write_text("".join(f"{number}\t{number}#0\t2\n" for number in range(3)))
    write_lines(folder / "prompts.jsonl", [{"text": f"{text}[MASK]。", "answers": ["猫"]} for text in QUESTIONS])
    write_lines(folder / "texts.jsonl", [{"text": text} for text in QUESTIONS])
    return folder


def load(task: str, folder: Path) -> Data:
    options = Options(data_dir=folder)
    if task == "fill-mask":
        options = replace(options, prompts=folder / "prompts.jsonl")
    elif task == "pseudo-perplexity":
        options = replace(options, texts=(folder / "texts.jsonl",))
    return make_task(task, options).load()


def changed(folder: Path, copy: Path, patterns: str, change: Callable[[bytes], bytes]) -> Path:
    """A copy of a folder with other contents of some files."""
    shutil.copytree(folder, copy)
    paths = [path for pattern in patterns.split() for path in copy.glob(pattern)]
    assert paths
    for path in paths:
        path.write_bytes(change(path.read_bytes()))
    return copy


@pytest.mark.parametrize("task", LAYOUTS)
def test_byte_order_mark_and_windows_line_breaks_change_nothing(task: str, data_folder: Path, tmp_path: Path) -> None:
    def windows(content: bytes) -> bytes:
        return b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")

    wanted = load(task, data_folder)
    read = load(task, changed(data_folder, tmp_path / "copy", LAYOUTS[task], windows))
    assert read.examples == wanted.examples
    if isinstance(wanted, SearchData):
        assert isinstance(read, SearchData)
        assert read.search == wanted.search
        assert len(wanted.search.relevant) >= 3
    if isinstance(wanted, Splits):
        assert isinstance(read, Splits)
        assert (read.train, read.dev) == (wanted.train, wanted.dev)


@pytest.mark.parametrize("task", LAYOUTS)
def test_other_encodings_are_reported(task: str, data_folder: Path, tmp_path: Path) -> None:
    def shift_jis(content: bytes) -> bytes:
        return content.decode().encode("shift_jis")

    folder = changed(data_folder, tmp_path / "copy", LAYOUTS[task], shift_jis)
    with pytest.raises(UsageError, match=r"row \d+: not UTF-8 .*iconv -f CP932"):
        load(task, folder)


@pytest.mark.parametrize(
    ("task", "old", "new"),
    [
        ("retrieval:jsquad", '"context": "', '"context": "\\ud83e'),
        ("jsquad", '"question": "', '"question": "\\udd86'),
        ("ner", '"text": "', '"text": "\\ud83e'),
        ("jsts", '"sentence1": "', '"sentence1": "\\ud83e'),
        ("fill-mask", '"text": "', '"text": "\\ud83e'),
        ("pseudo-perplexity", '"text": "', '"text": "\\ud83e'),
        ("retrieval:beir", '"text": "', '"text": "\\udd86'),
        ("retrieval:miracl", "は", "\udd86"),
    ],
)
def test_lone_surrogates_are_reported(task: str, old: str, new: str, data_folder: Path, tmp_path: Path) -> None:
    def broken(content: bytes) -> bytes:
        return content.replace(old.encode(), new.encode(errors="surrogatepass"))

    folder = changed(data_folder, tmp_path / "copy", LAYOUTS[task], broken)
    with pytest.raises(UsageError, match=r"surrogate|not UTF-8"):
        load(task, folder)


@pytest.mark.parametrize(
    ("task", "content"),
    [
        (task, content)
        for task in ("retrieval:jsquad", "jsquad", "ner", "jsts", "fill-mask", "pseudo-perplexity", "retrieval:beir")
        for content in (
            "[" * 100_000,
            '{"data": [' * 50_000,
            '{"data": {"paragraphs": 1}}',
            '{"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [{"id": "1", "question": 2}]}]}]}',
            '{"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": [1]}]}]}]}',
            '[{"text": "猫", "entities": [{"span": [0, "1"], "type": "x"}]}]',
            '[{"text": "猫", "entities": [{"span": [0], "type": "x"}]}]',
            '{"text": ["[MASK]"], "answers": 1, "_id": "1"}',
            '{"sentence1": 1, "sentence2": "b", "label": "1"}',
            "null",
        )
    ],
)
def test_mistyped_and_nested_files_are_reported_in_one_line(
    task: str, content: str, data_folder: Path, tmp_path: Path
) -> None:
    pattern = "beir/queries.jsonl" if task == "retrieval:beir" else LAYOUTS[task]
    folder = changed(data_folder, tmp_path / "copy", pattern, lambda _: content.encode())
    with pytest.raises(UsageError) as raised:
        load(task, folder)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("grade", ["", "yes", "1.0", "²"])
@pytest.mark.parametrize("task", ["retrieval:miracl", "retrieval:beir"])
def test_grades_that_are_not_integers_are_reported(task: str, grade: str, data_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data_folder, copy)
    table = copy / ("beir/qrels/test.tsv" if task == "retrieval:beir" else "qrels.miracl-v1.0-ja-dev.tsv")
    lines = table.read_text().splitlines()
    lines[1] = lines[1][:-1] + grade
    table.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"line 2: the grade .* is not an integer"):
        load(task, copy)


def test_questions_without_ids_are_kept_apart(tmp_path: Path) -> None:
    paragraphs = [
        {"context": text, "qas": [{"question": f"{text}?", "answers": [{"text": text[0], "answer_start": 0}]}]}
        for text in QUESTIONS
    ]
    (tmp_path / "jsquad-v1.3").mkdir()
    content = json.dumps({"data": [{"paragraphs": paragraphs}]})
    (tmp_path / "jsquad-v1.3/valid-v1.3.json").write_text(content)
    data = make_task("retrieval:jsquad", Options(data_dir=tmp_path)).load()
    assert isinstance(data, SearchData)
    assert list(data.search.queries.values()) == [f"{text}?" for text in QUESTIONS]
