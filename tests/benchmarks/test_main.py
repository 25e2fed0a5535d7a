"""`python -m benchmarks`: what is told of bad input, before anything is measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.__main__ import app
from benchmarks.texts import DATA_VARIABLE
from llm_jp_modernbert.cli import main


def told(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says on its way out, where it fails."""
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as ended:
        main(app)
    assert ended.value.code not in (0, None)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--rows foo", "--rows foo"),
        ("--rows 0", "--rows 0"),
        ("--rows 12", "--rows 12"),
        ("--rows 7", "--data"),
        ("--rows 7 --data nowhere", "--data"),
        ("--rows 6 --model ./nowhere", "./nowhere: no such directory"),
        ("--turns 0", "--turns"),
        ("--shape huge", "--shape"),
        ("--rows 9 --out FILE", "--out"),
        ("encoder --dtype int3", "--dtype"),
        ("encoder --lengths a,b", "--lengths a,b"),
        ("encoder --batch -1", "--batch"),
        ("encoder --repeats 0", "--repeats"),
        ("encoder --out .", "--out"),
        ("fill-mask --tokenizer nowhere --prompts 0", "--prompts"),
        ("training-step texts.jsonl", "--tokenizer"),
        ("gpu --turns 0", "--turns"),
        ("readme nowhere", "no such file"),
    ],
)
def test_bad_options_are_one_line(
    arguments: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("mine", encoding="utf-8")
    assert expected in told(arguments.split(), monkeypatch, capsys)
    assert Path("FILE").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"cases": [{"row": 1}]}'])
def test_results_of_another_kind_are_named(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.json").write_text(text, encoding="utf-8")
    assert str(tmp_path / "table.json") in told(["readme", str(tmp_path)], monkeypatch, capsys)


def test_a_missing_readme_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = readme.README.parent / "results" / "table.json"
    if not kept.is_file():
        pytest.skip("no results are kept")
    (tmp_path / "table.json").write_text(json.dumps(json.loads(kept.read_text(encoding="utf-8"))), encoding="utf-8")
    file = tmp_path / "missing.md"
    assert str(file) in told(["readme", str(tmp_path), "--file", str(file)], monkeypatch, capsys)
