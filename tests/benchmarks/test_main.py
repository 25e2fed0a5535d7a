"""`python -m benchmarks`: invalid input is reported in one line before anything is measured; help is readable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from benchmarks import report
from benchmarks.__main__ import app
from benchmarks.models import DATA_VARIABLE
from llm_jp_modernbert.cli import main


def error_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that fails, and return its standard error."""
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        main(app)
    assert exit_info.value.code not in (0, None)
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
        ("finetuning --shortest 300", "--shortest"),
        ("retrieval --shortest 2000", "--shortest"),
        ("gpu --parts speed", "--parts"),
        ("gpu --device tpu", "--device"),
        ("step-cost --layers 3", "--layers"),
        ("roofline --set speed=3", "speed"),
        ("readme nowhere", "no such file"),
        ("speedrun", "needs --data or LLM_JP_MODERNBERT_TEST_DATA"),
        ("speedrun --seeds 0", "--seeds"),
        ("speedrun --data nowhere", "nowhere lacks corpus/aozora"),
        ("speedrun learning_rate=1 --row faster --data nowhere", "A row measures the recipe as it is committed"),
    ],
)
def test_invalid_options_are_reported_by_name(
    arguments: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("content", encoding="utf-8")
    assert expected in error_of(arguments.split(), monkeypatch, capsys)
    assert Path("FILE").read_text(encoding="utf-8") == "content"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"cases": [{"row": 1}]}'])
def test_invalid_file_of_results_is_named(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.json").write_text(text, encoding="utf-8")
    assert str(tmp_path / "table.json") in error_of(["readme", str(tmp_path)], monkeypatch, capsys)


def test_missing_readme_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = report.README.parent / "results" / "table.json"
    if not results.is_file():
        pytest.skip("no results in the repository")
    (tmp_path / "table.json").write_text(json.dumps(json.loads(results.read_text(encoding="utf-8"))), encoding="utf-8")
    file = tmp_path / "missing.md"
    assert str(file) in error_of(["readme", str(tmp_path), "--file", str(file)], monkeypatch, capsys)


@pytest.mark.parametrize("command", [[], *([name] for name in get_command(app).commands)])  # type: ignore[attr-defined]
def test_help_fits_80_columns_without_truncated_words(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert "…" not in result.output
    assert max(map(len, result.output.splitlines())) <= 80
