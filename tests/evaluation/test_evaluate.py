"""The command as users meet it: results, resumption, tables, plots, and mistakes in one line."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from typer.testing import CliRunner

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.evaluation.leaderboard import leaderboard, render
from llm_jp_modernbert.evaluation.plots import _japanese_font, trajectories
from llm_jp_modernbert.evaluation.results import Results, Row

TASKS = "fill-mask,retrieval,alignment-uniformity,similarity"


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def out(modernbert: Path, bert: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two models."""
    out = tmp_path_factory.mktemp("results")
    common = ["--data-dir", small_data, "--limit", "20", "--device", "cpu", "--out", out]
    done = invoke("evaluate", modernbert, bert, "--tasks", TASKS, *common)
    assert done.exit_code == 0, done.output
    fine_tuned = [*common, "--learning-rate", "1e-3", "--epochs", "1", "--seed", "0", "--seed", "1"]
    done = invoke("evaluate", modernbert, "--tasks", "jcola", *fine_tuned)
    assert done.exit_code == 0, done.output
    assert "simplest guess" in done.output
    return out


def test_rows_say_what_they_are_of(out: Path) -> None:
    rows = list(Results(out).rows())
    assert {row.task for row in rows} == {*TASKS.split(","), "jcola"}
    for row in rows:
        assert row.dataset
        assert row.dataset_revision.startswith("sha256:")
        assert row.examples > 0
        assert row.revision.startswith("sha256:")
        assert row.versions["torch"]
    assert not list(out.glob(".unfinished*"))
    assert not list(out.rglob(".*.json*"))


def test_what_is_done_is_not_done_again(out: Path, modernbert: Path, small_data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    common = ["--data-dir", small_data, "--limit", "20", "--device", "cpu", "--out", out]
    done = invoke("evaluate", modernbert, "--tasks", TASKS, *common)
    assert done.output.count("done before") == 4
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json")} == before


def test_leaderboard_has_a_cell_for_every_model(out: Path) -> None:
    table = leaderboard(Results(out).rows())
    for form in ("markdown", "latex", "html"):
        assert "–" in render(table, form) or "--" in render(table, form)
    accuracy = next(column for column in table.columns if (column.task, column.metric) == ("jcola", "accuracy"))
    assert "±" in table.text(table.models[-1], accuracy) or "±" in table.text(table.models[0], accuracy)
    lines = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    assert len(lines) == len(table.models) * len(table.columns)
    one = next(line for line in lines if line["value"] and line["task"] == "similarity")
    values = [row.value for row in Results(out).rows() if row.task == "similarity" and row.metric == one["metric"]]
    assert float(one["value"]) in values


def test_the_mean_of_jglue_is_of_models_that_have_all_three(out: Path) -> None:
    row = next(row for row in Results(out).rows() if (row.task, row.metric) == ("jcola", "accuracy"))
    scores = {"jsts": 0.9, "jnli": 0.8, "jcola": 0.4}
    rows = [
        replace(
            row,
            task=task,
            dataset=task.upper(),
            metric="pearson" if task == "jsts" else "accuracy",
            split="validation",
            value=value,
            model=model,
        )
        for task, value in scores.items()
        for model in ("all", "two")
        if (model, task) != ("two", "jnli")
    ]
    table = leaderboard(rows)
    mean = next(column for column in table.columns if column.task == "jglue")
    assert table.text("all", mean) == "70.0"
    assert table.text("two", mean) == "–"


def test_plots(out: Path, tmp_path: Path) -> None:
    done = invoke("leaderboard", "--results", out, "--plots", tmp_path / "plots")
    assert done.exit_code == 0, done.output
    names = {path.name.split("-improved")[0] for path in (tmp_path / "plots").glob("*.png")}
    assert names == {"fill-mask", "alignment-uniformity", "similarity"}


def test_the_font_of_plots_has_japanese_letters() -> None:
    font = FT2Font(font_manager.findfont(_japanese_font()))
    assert all(font.get_char_index(ord(letter)) for letter in "日本語モデルの評価")


def test_checkpoints_are_joined_in_the_order_of_their_steps() -> None:
    models = ["run/checkpoint-1000", "run/checkpoint-200", "run", "a/b@stage1-15k", "a/b@stage1-4k", "a/b@stage2-200k"]
    assert trajectories(models) == [["run/checkpoint-200", "run/checkpoint-1000"], ["a/b@stage1-4k", "a/b@stage1-15k"]]


def test_interrupted_it_goes_on(modernbert: Path, small_data: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "llm_jp_modernbert", "evaluate", modernbert, "--tasks", "similarity,jsts"]
    grid = ["--learning-rate", "1e-3", "--learning-rate", "1e-4", "--epochs", "1", "--epochs", "200"]
    command = [*map(str, arguments), "--data-dir", str(small_data), "--device", "cpu", *grid]
    running = subprocess.Popen(
        [*command, "--out", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("0.001x1.json")) and time.monotonic() < deadline:
        assert running.poll() is None
        time.sleep(0.1)
    os.kill(running.pid, signal.SIGINT)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in output
    assert len(list(Results(tmp_path).rows())) > 0
    assert {path.stem for path in (tmp_path / ".unfinished").rglob("*.json")} >= {"0.001x1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "jnlp"], "no such task"),
        (["--tasks", "jsts", "--data-dir", "nowhere"], "no such folder"),
        (["--tasks", "fill-mask", "--prompts", "nowhere.jsonl"], "no such file"),
        (["--tasks", "similarity", "--pooling", "max"], "--pooling max"),
        (["--tasks", "pseudo-perplexity"], "reads 64 tokens"),
    ],
)
def test_mistakes(arguments: list[str], message: str, modernbert: Path, small_data: Path, tmp_path: Path) -> None:
    given = [] if "--data-dir" in arguments else ["--data-dir", small_data]
    done = invoke("evaluate", modernbert, "--device", "cpu", "--out", tmp_path, *arguments, *given)
    text = " ".join((done.output + str(done.exception)).split())
    assert done.exit_code != 0
    assert message in text
    assert not list(tmp_path.rglob("*.json"))


def test_a_broken_file_of_results_is_named(tmp_path: Path) -> None:
    path = tmp_path / "jsts/model/paper-0.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schema": 1, "rows": [{"task": "jsts"}]}))
    done = invoke("leaderboard", "--results", tmp_path)
    assert done.exit_code != 0
    assert str(path) in " ".join((done.output + str(done.exception)).split()).replace(" ", "")


def test_rows_are_plain_values(out: Path) -> None:
    for path in out.glob("*/*/*.json"):
        for row in json.loads(path.read_text())["rows"]:
            assert Row(**row)
