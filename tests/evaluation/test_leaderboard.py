"""Leaderboard and plots of results that need no model."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.plots import style
from llm_jp_modernbert.core.results import Measurement, Results, Row, Run, read_rows, write_rows
from llm_jp_modernbert.evaluation.plots import plot_all
from llm_jp_modernbert.evaluation.report.leaderboard import leaderboard, render, show

ROW = Row(
    task="similarity",
    dataset="JaQuAD",
    split="train",
    metric="auc",
    value=0.8,
    model="a",
    protocol="default",
    scale=100,
)
STEPS = (0, 220, 1100, 2200)


def run(task: str, model: str, dataset: str = "data") -> Run:
    return Run(
        task=task,
        model=model,
        revision=model,
        protocol="default",
        settings={"limit": None},
        seed=0,
        dataset=dataset,
        dataset_revision="sha256:0",
        split="test",
        examples=20,
    )


def test_values_that_are_shown_equal_share_the_lead() -> None:
    """Rounded values decide: 0.0 and -0.0 are equal, and no sign is left of a rounded zero."""
    rows = [replace(ROW, model=model, value=value) for model, value in (("a", 0.0), ("b", -1e-5))]
    table = leaderboard(rows)
    assert [table.text(model, table.columns[0]) for model in "ab"] == ["0.0", "0.0"]
    assert table.best(table.columns[0]) == []
    table = leaderboard([*rows, replace(ROW, model="c", value=-0.2)])
    assert table.best(table.columns[0]) == ["a", "b"]


def test_limit_is_shown_even_if_all_columns_have_it() -> None:
    table = leaderboard([replace(ROW, settings={"limit": 10})])
    assert table.heading(table.columns[0])[2] == "limit 10"
    table = leaderboard([replace(ROW, settings={"limit": 10}), replace(ROW, settings={"limit": None})])
    assert sorted(len(table.heading(column)) for column in table.columns) == [2, 3]


@pytest.mark.parametrize("width", [60, 100, 400])
def test_printed_table_shows_every_value_without_truncation(width: int) -> None:
    """Models that do not fit follow in further tables."""
    values = {f"organization/a-long-name@stage1-step-{step}": 0.1 + step / 10_000 for step in STEPS}
    console = Console(file=io.StringIO(), width=width)
    show([replace(ROW, model=model, revision=model, value=value) for model, value in values.items()], console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    assert all(model in text and f"{100 * value:.1f}" in text for model, value in values.items())
    assert all(len(line) <= width for line in text.splitlines())


def test_terminal_escapes_of_model_names_are_not_printed() -> None:
    console = Console(file=io.StringIO(), width=80)
    show([replace(ROW, model="evil\x1b]0;title\x07name")], console)
    assert isinstance(console.file, io.StringIO)
    assert "\x1b" not in console.file.getvalue()
    assert "evilname" in console.file.getvalue()


def test_checkpoints_are_ordered_by_step(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for step in STEPS:
        results.write(run("similarity", f"model@stage1-step-{step}"), [Measurement("auc", 0.5)])
    assert [row.step for row in results.rows()] == list(STEPS)


def rows_without_plottable_values(results: Results) -> None:
    """Results as in published tables: totals only, without values by context or by example."""
    results.write(run("pseudo-perplexity", "a"), [Measurement("pseudo_perplexity", 12.5, False)])
    results.write(run("similarity", "a"), [Measurement("auc", 0.5)])
    results.write(run("fill-mask", "a"), [Measurement("mrr", 0.5)])


def test_results_without_plottable_values_do_not_stop_other_plots(tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    rows_without_plottable_values(results)
    assert plot_all(results, tmp_path / "plots") == []
    results.write(run("fill-mask", "b"), [Measurement("top1_accuracy", 0.025, scale=100)])
    contexts = [Measurement("pseudo_perplexity", 10.0 + c, False, f"{c}", context=c) for c in (128, 256)]
    results.write(run("pseudo-perplexity", "b"), contexts)
    assert [path.name for path in plot_all(results, tmp_path / "plots")] == [
        "fill-mask-default.png",
        "pseudo-perplexity-default.png",
    ]


def test_plots_draw_any_name_as_it_is(tmp_path: Path) -> None:
    """Not as a formula of TeX, a hidden label or a control sequence."""
    results = Results(tmp_path / "results")
    names = ["_hidden", "a$b^$c", "$x_{$", "\x1b[31mred"]
    values = [Measurement("alignment", 0.3, False), Measurement("uniformity", -1.0, False)]
    contexts = [Measurement("pseudo_perplexity", 10.0, False, "128", context=128)]
    for count in range(1, len(names) + 1):
        for name in names[:count]:
            results.write(run("alignment-uniformity", name, "data $_$"), values)
            results.write(
                run("fill-mask", name), [Measurement("top1_accuracy", 0.1, subset=part) for part in ("", "$_$")]
            )
            results.write(run("pseudo-perplexity", name), contexts)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(plot_all(results, tmp_path / "plots")) == 3


def test_lines_of_a_plot_differ_in_color_or_dashes() -> None:
    with style():
        axes = Figure().add_subplot()
        looks = {(line.get_color(), line.get_linestyle()) for number in range(30) for line in axes.plot([number])}
    assert len(looks) == 30


def test_printed_tables_hold_no_terminal_escapes(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.write(run("similarity", "\x1b]0;title\x07model"), [Measurement("auc", 0.8)])
    for form in ("markdown", "latex", "csv", "html"):
        done = CliRunner().invoke(app, ["leaderboard", "--results", str(tmp_path), "--format", form])
        assert "model" in done.stdout
        assert not set("\x1b\x07").intersection(done.stdout)


@pytest.mark.parametrize(
    "damage", [{}, {"kind": []}, {"kind": "random"}, {"kind": "random", "squared_distance": None}]
)
def test_damaged_outputs_do_not_stop_other_plots(
    damage: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [{"kind": kind, "squared_distance": 0.5} for kind in ("positive", "random")]
    results = Results(tmp_path / "results")
    results.write(run("fill-mask", "a"), [Measurement("top1_accuracy", 0.5)])
    results.write(run("similarity", "a"), [Measurement("auc", 0.5)], pairs)
    assert len(plot_all(results, tmp_path / "plots")) == 2
    results.write(run("similarity", "b"), [Measurement("auc", 0.5)], [*pairs, damage])
    files = plot_all(results, tmp_path / "plots")
    assert "fill-mask-default.png" in [path.name for path in files]
    assert len(files) == 2 or "similarity-default.png: not drawn" in caplog.text


def test_plots_leave_a_margin_around_titles_and_labels(tmp_path: Path) -> None:
    """No text touches the edge, however long the name of the data is and however high the values are."""
    results = Results(tmp_path / "results")
    values = [Measurement("alignment", 0.3, False), Measurement("uniformity", -1.0, False)]
    data = "日本語の長い名前のデータ " * 12
    categories = [Measurement("top1_accuracy", 0.025, subset=f"category {number}") for number in range(12)]
    for step in STEPS:
        model = f"organization/a-very-long-model-name@stage1-step-{step}"
        results.write(run("alignment-uniformity", model, data), values)
        results.write(run("fill-mask", model, data), [Measurement("top1_accuracy", 0.01), *categories])
    files = plot_all(results, tmp_path / "plots")
    assert len(files) == 2
    for path in files:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert all((edge == 255).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])), path
        assert pixels.shape[0] < 1200


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"schema": 2}',
        '{"schema": [2], "rows": []}',
        '{"schema": 2, "rows": {}}',
        '{"schema": 2, "rows": [1]}',
        '{"schema": 2, "rows": [{"task": "x"}]}',
        '{"schema": 1, "rows": [{"model": 3}]}',
        '{"schema": 1, "rows": [[]]}',
    ],
)
def test_invalid_results_file_is_one_line_with_its_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "similarity" / "model" / "default-0.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    done = CliRunner().invoke(app, ["leaderboard", "--results", str(tmp_path)])
    assert isinstance(done.exception, UsageError), done.exception
    assert str(path) in str(done.exception)
    assert "\n" not in str(done.exception)


@pytest.mark.parametrize(
    "change",
    [{"value": "high"}, {"settings": []}, {"step": "x"}, {"model": ["a"]}, {"train_files": "a"}, {"grid": [1]}],
)
def test_mistyped_row_is_one_line_with_its_field(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "similarity" / "model" / "default-0.json"
    write_rows(path, [replace(ROW, **change)])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"{path}: rows: 0.{next(iter(change))}"):
        read_rows(path)


def test_file_formats_are_unchanged_by_the_terminal() -> None:
    assert render(leaderboard([ROW]), "markdown").startswith("| model | similarity<br>auc ↑ |")
