"""Corpora prepared with the local executor: what was planted is removed and counted, and nothing else."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove", reason="datatrove is not installed")

import pyarrow.parquet
from corpora import sentences, write

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.corpora.prepare import prepare_corpus
from llm_jp_modernbert.training.corpora.recipe import load_recipe


def read(folder: Path, split: str = "train") -> list[str]:
    files = sorted((folder / split).glob("*.parquet"))
    return [text for file in files for text in pyarrow.parquet.read_table(file)["text"].to_pylist()]


def prepare(data: Path, out: Path, *overrides: str) -> dict[str, Any]:
    recipe = load_recipe("japanese-web", [f"data={data}", f"output_dir={out}", *overrides])
    # Starting workers takes seconds; `test_corpus_executors.py` has them.
    report = prepare_corpus(recipe, workers=1)
    assert report is not None
    return report


def removed(report: dict[str, Any]) -> dict[str, int]:
    return {step["name"]: step["documents"] for step in report["steps"] if step["documents"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "pages"
    texts = [sentences(seed) for seed in range(30)]
    write(folder / "a.jsonl", [*texts[:10], "短い。", "These are English words only. " * 20])
    write(folder / "b.jsonl", [*texts[10:20], texts[3], "同じ行が何度も続くページです。\n" * 40])
    write(folder / "c.jsonl", [*texts[20:], texts[3], texts[25]])
    with (folder / "c.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": 1}\nnot JSON\n')
    return folder


def test_planted_documents_are_removed_and_counted(data: Path, tmp_path: Path) -> None:
    report = prepare(data, tmp_path / "out", "tasks=4", "validation_share=0")
    assert sorted(read(tmp_path / "out")) == sorted(sentences(seed) for seed in range(30))
    assert removed(report) == {
        "unreadable_rows": 2,
        "characters": 1,
        "japanese": 1,
        "repeated_lines": 1,
        "exact_duplicates": 3,
    }
    assert report["documents_read"] == 36
    assert report["splits"]["train"]["documents"] == 30
    (sample,) = next(step["samples"] for step in report["steps"] if step["name"] == "characters")
    assert sample["text"] == "短い。"
    assert sample["id"] == "pages/a.jsonl:11"


def test_manifest_lists_all_files_with_their_checksums(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = prepare(data, out, "tasks=2", "validation_share=0.3")
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert {entry["path"] for entry in manifest["files"]} == {
        path.relative_to(out).as_posix() for path in out.glob("*/*.parquet")
    }
    for entry in manifest["files"]:
        content = (out / entry["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"])
    train, validation = read(out), read(out, "validation")
    assert (len(train), len(validation)) == tuple(report["splits"][s]["documents"] for s in ("train", "validation"))
    assert len(train) + len(validation) == 30
    assert validation


def test_split_of_a_document_does_not_depend_on_the_rest(data: Path, tmp_path: Path) -> None:
    options = "validation_share=0.3"
    prepare(data, tmp_path / "all", options)
    prepare(data / "b.jsonl", tmp_path / "one", options)
    assert set(read(tmp_path / "one", "validation")) <= set(read(tmp_path / "all", "validation"))


def test_other_settings_are_refused(data: Path, tmp_path: Path) -> None:
    prepare(data, tmp_path / "out")
    with pytest.raises(UsageError, match=r"was prepared with other settings \(tasks\)"):
        prepare(data, tmp_path / "out", "tasks=2")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        prepare(data, tmp_path / "other")


def edited(text: str, seed: int) -> str:
    """The text with every hundredth character replaced."""
    generator = random.Random(seed)
    characters = list(text)
    for place in range(generator.randrange(100), len(characters), 100):
        characters[place] = generator.choice("アイウエオ")
    return "".join(characters)


def test_near_duplicates_and_evaluation_sentences_are_removed(tmp_path: Path) -> None:
    texts = [sentences(seed) for seed in range(20)]
    copies = [edited(text, seed) for seed, text in enumerate(texts[:8])]
    question = "ある晴れた日の午後に山の上の小さな駅で降りた乗客は何人だったか。"
    contaminated = [
        f"{sentences(100)}\nある晴れた日の午後に、山の上の小さな駅で降りた乗客は何人だったか？",
        sentences(101) + question,
    ]
    partial = sentences(102) + "ある晴れた日の午後に出かけた。"
    write(tmp_path / "pages" / "a.jsonl", [*texts, partial, contaminated[0]])
    write(tmp_path / "pages" / "b.jsonl", [*copies, contaminated[1]])
    nested = {"data": [{"paragraphs": [{"context": "短い。" + question, "answers": ["三人"]}]}]}
    (tmp_path / "test.json").write_text(json.dumps(nested), "utf-8")
    options = ("tasks=3", "validation_share=0", f"decontamination.texts=[{tmp_path / 'test.json'}]")
    report = prepare(tmp_path / "pages", tmp_path / "out", *options)
    assert removed(report) == {"near_duplicates": 8, "decontamination": 2}
    kept = read(tmp_path / "out")
    assert len(kept) == 21
    assert set(texts[8:]) | {partial} <= set(kept)
    assert all((text in kept) != (copy in kept) for text, copy in zip(texts, copies, strict=False))
    samples = next(step["samples"] for step in report["steps"] if step["name"] == "decontamination")
    assert {sample["reason"].partition(":")[0] for sample in samples} == {"test.json"}


@pytest.mark.parametrize(("value", "message"), [("missing.json", "no such file"), ("SHORT", "no sentence has 20")])
def test_unusable_evaluation_texts_are_named(value: str, message: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("短い。", "utf-8")
    texts = value.replace("SHORT", str(tmp_path / "short.txt"))
    with pytest.raises(UsageError, match=message):
        prepare(data, tmp_path / "out", f"decontamination.texts=[{texts}]")


def test_urls_are_read_like_files(data: Path, tmp_path: Path) -> None:
    recipe = load_recipe("japanese-web", [f"data={data.as_uri()}/*.jsonl", f"output_dir={tmp_path / 'out'}"])
    report = prepare_corpus(recipe, workers=1)
    assert report is not None
    assert removed(report)["unreadable_rows"] == 2
    assert report["documents_read"] == 36
