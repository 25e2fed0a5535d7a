"""The board of the speed run shows what was measured."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.models import DATA_VARIABLE
from benchmarks.speedrun import BOARD, PAGE, Row, add_row, board_of


def test_rows_are_added_to_the_file_and_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    rows = [
        Row("Beginning", "abc1234", [100.0, 110.0, 120.0], [5.9, 6.0, 6.1], 81_920, "A, 1 threads, avx2"),
        Row("Faster", "def5678", [50.0, 55.0, 60.0], [5.9, 5.9, 5.9], 40_960, "A, 1 threads, avx2"),
    ]
    for row in rows:
        add_row(row, tmp_path / "board.json", page)
    assert len(json.loads((tmp_path / "board.json").read_text(encoding="utf-8"))) == 2
    text = page.read_text(encoding="utf-8")
    assert "| 1 | 110.0 ± 10.0 | 1.00 | 6.000 | 81,920 | Beginning | abc1234 |" in text
    assert "| 2 | 55.0 ± 5.0 | 0.50 | 5.900 | 40,960 | Faster | def5678 |" in text
    assert text.count("Machine: A, 1 threads, avx2.") == 1
    assert text.startswith("# Speed run")


def test_page_shows_the_committed_results() -> None:
    rows = [Row(**values) for values in json.loads(BOARD.read_text(encoding="utf-8"))]
    assert board_of(rows) in PAGE.read_text(encoding="utf-8")


@pytest.mark.skipif(DATA_VARIABLE not in os.environ, reason=f"needs {DATA_VARIABLE}")
def test_short_run_misses_the_target(tmp_path: Path) -> None:
    """On few of the texts, since training a tokenizer on all takes a while."""
    folder = tmp_path / "corpus" / "aozora"
    folder.mkdir(parents=True)
    for name in ("train-00.jsonl.gz", "validation.jsonl.gz"):
        with gzip.open(Path(os.environ[DATA_VARIABLE]) / "corpus" / "aozora" / name) as texts:
            (folder / name).write_bytes(gzip.compress(b"".join(itertools.islice(texts, 20))))
    trial = ["max_steps=2", "tokens_per_batch=256", "sequence_length=64", "max_validation_tokens=1000"]
    result = CliRunner().invoke(app, ["speedrun", *trial, "--seeds", "1", "--data", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "misses the target of 6.0" in result.output
