"""The command: results, resumption, tables, plots and error messages."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from evaluation_data import make_task, write_lines
from forked import forked
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from rich.console import Console
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.plots import japanese_font
from llm_jp_modernbert.core.results import (
    Measurement,
    Results,
    Row,
    Run,
    dataset_slug,
    read_rows,
    trajectories,
)
from llm_jp_modernbert.evaluation.data.options import Options
from llm_jp_modernbert.evaluation.data.readers import SearchData
from llm_jp_modernbert.evaluation.encoders.embeddings import sentence_transformer
from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
from llm_jp_modernbert.evaluation.interrupts import Interrupts
from llm_jp_modernbert.evaluation.plots import plot_all
from llm_jp_modernbert.evaluation.report.leaderboard import leaderboard, render, show
from llm_jp_modernbert.evaluation.tasks.fill_mask import FillMask
from llm_jp_modernbert.evaluation.tasks.task import Outcome

INFERENCE = "fill-mask,retrieval,alignment-uniformity,similarity"


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def out(modernbert: Path, bert: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two models."""
    out = tmp_path_factory.mktemp("results")
    common = ["--data-dir", small_data, "--limit", "20", "--device", "cpu", "--out", out]
    done = invoke("evaluate", modernbert, bert, "--tasks", INFERENCE, *common)
    assert done.exit_code == 0, done.output
    fine_tuned = [*common, "--learning-rate", "1e-3", "--epochs", "1", "--seed", "0", "--seed", "1"]
    done = invoke("evaluate", modernbert, "--tasks", "jcola", *fine_tuned)
    assert done.exit_code == 0, done.output
    assert "majority" in done.output
    return out


def test_rows_contain_data_model_and_versions(out: Path) -> None:
    rows = list(Results(out).rows())
    assert {row.task for row in rows} == {*INFERENCE.split(","), "jcola"}
    for row in rows:
        assert row.dataset
        assert row.dataset_revision.startswith("sha256:")
        assert row.examples > 0
        assert row.revision.startswith("sha256:")
        assert row.versions["torch"]
    assert not list(out.glob(".unfinished*"))
    assert not list(out.rglob(".*.json*"))


def test_finished_measurements_are_skipped(out: Path, modernbert: Path, small_data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    common = ["--data-dir", small_data, "--limit", "20", "--device", "cpu", "--out", out]
    done = invoke("evaluate", modernbert, "--tasks", INFERENCE, *common)
    assert done.output.count("already measured") == 4
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json")} == before


def test_results_under_the_former_protocol_name_count_as_measured(out: Path, modernbert: Path, tmp_path: Path) -> None:
    (path,) = (out / "fill-mask").glob("*modernbert/default-*.json")
    old = tmp_path / "fill-mask" / path.parent.name / path.name.replace("default-", "improved-")
    old.parent.mkdir(parents=True)
    old.write_text(path.read_text().replace('"protocol": "default"', '"protocol": "improved"'))
    for protocol in ("default", "improved"):
        common = ["--limit", "20", "--device", "cpu", "--out", tmp_path, "--protocol", protocol]
        assert "already measured" in invoke("evaluate", modernbert, "--tasks", "fill-mask", *common).output
    assert {row.protocol for row in Results(tmp_path).rows()} == {"default"}
    assert len(list(tmp_path.rglob("*.json"))) == 1


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("wikimedia/wikipedia/20231101.ja", "wikimedia/wikipedia"),
        ("miracl/miracl", "miracl/miracl"),
        ("JaQuAD paragraphs of one article", "JaQuAD-paragraphs-of-one-article"),
        ("miracl/miracl + wikimedia/wikipedia/20231101.ja", "miracl-miracl-wikimedia-wikipedia-20231101.ja"),
        ("文章.jsonl.gz+b.jsonl", "jsonl.gz-b.jsonl"),
        ("文章", "texts"),
    ],
)
def test_dataset_slugs_are_types_that_the_hub_accepts(name: str, slug: str) -> None:
    assert dataset_slug(name) == slug
    assert re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", slug, re.ASCII)


def test_leaderboard_has_a_cell_for_every_model_and_column(out: Path) -> None:
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


def test_mean_over_tasks_requires_all_tasks(out: Path) -> None:
    row = next(row for row in Results(out).rows() if (row.task, row.metric) == ("jcola", "accuracy"))
    scores = {"jsts": 0.9, "jnli": 0.8, "jcola": 0.4}
    rows = [
        replace(
            row,
            task=task,
            dataset=task.upper(),
            metric="pearson" if task == "jsts" else "accuracy",
            averaged_with=tuple(scores),
            split="validation",
            value=value,
            model=model,
        )
        for task, value in scores.items()
        for model in ("all", "two")
        if (model, task) != ("two", "jnli")
    ]
    table = leaderboard(rows)
    mean = next(column for column in table.columns if column.metric == "mean")
    assert table.text("all", mean) == "70.0"
    assert table.text("two", mean) == "–"


def test_columns_with_equal_headings_are_distinguished(out: Path) -> None:
    row = next(row for row in Results(out).rows() if (row.task, row.metric, row.split) == ("jcola", "mcc", "dev"))
    others = [replace(row, dataset="別のデータ"), replace(row, protocol="paper"), replace(row, split="validation")]
    for other in others:
        table = leaderboard([row, other])
        headings = [table.heading(column) for column in table.columns]
        assert len(set(headings)) == 2
        assert all(len(heading) == 3 for heading in headings)
        for form in ("markdown", "latex", "html"):
            assert all(heading[2] in render(table, form) for heading in headings)
    table = leaderboard([row])
    assert table.heading(table.columns[0]) == ("jcola", "mcc ↑", "limit 20")


def test_different_settings_are_different_columns(out: Path) -> None:
    """The grid and the pooling distinguish columns; the selected grid point does not."""
    row = next(row for row in Results(out).rows() if (row.task, row.metric, row.split) == ("jcola", "mcc", "dev"))
    assert [(point["learning_rate"], point["epochs"]) for point in row.grid] == [(1e-3, 1)]
    chosen = replace(row, learning_rate=7.0, train_examples=1, model="other")
    assert len(leaderboard([row, chosen]).columns) == 1
    for name, value, distinctions in (
        ("learning_rates", [0.01], ("limit 20, learning rates 0.001", "limit 20, learning rates 0.01")),
        ("pooling", "mean", ("limit 20", "limit 20, pooling mean")),
    ):
        other = replace(row, settings={**row.settings, name: value})
        table = leaderboard([row, other])
        assert sorted(table.heading(column)[2] for column in table.columns) == sorted(distinctions)
        text = render(table, "markdown")
        assert all(text.count(part) >= 2 for part in distinctions if part), text


def test_different_settings_are_plotted_separately(out: Path, tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    for rows, instances in Results(out).measurements():
        if rows[0].task == "similarity":
            run = Run(**{field.name: getattr(rows[0], field.name) for field in fields(Run)})
            measurements = [Measurement(row.metric, row.value, subset=row.subset) for row in rows]
            for pooling in ("auto", "cls"):
                results.write(replace(run, settings={**run.settings, "pooling": pooling}), measurements, instances)
    drawn = plot_all(results, tmp_path / "plots")
    assert [path.name for path in drawn] == ["similarity-default.png", "similarity-default-2.png"]


def test_values_have_four_digits_and_ties_have_no_leader(out: Path) -> None:
    row = next(row for row in Results(out).rows() if row.task == "similarity" and row.metric == "auc")
    sizes = {12345.678: "12,346", 123.456: "123.5", 12.3456: "12.35", 1.23456: "1.235", -0.5: "-0.500"}
    for value, text in sizes.items():
        table = leaderboard([replace(row, metric="pseudo_perplexity", scale=1, value=value)])
        assert table.text(table.models[0], table.columns[0]) == text
    table = leaderboard([replace(row, model=model, revision=model, value=0.5) for model in "ab"])
    assert table.best(table.columns[0]) == []
    assert table.text("a", table.columns[0]) == "50.0"


@pytest.mark.parametrize("width", [80, 200])
def test_printed_table_shows_full_names_and_baseline(width: int, out: Path) -> None:
    row = next(row for row in Results(out).rows() if (row.task, row.metric, row.split) == ("jcola", "accuracy", "dev"))
    models = [f"日本語の長い名前のモデル/checkpoint-{number}000" for number in range(1, 4)]
    console = Console(file=io.StringIO(), width=width)
    show([replace(row, model=model, revision=model, value=0.7125, baseline=0.625) for model in models], console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(text.count(model) == 1 for model in models)
    assert text.count("71.2") == 3
    assert text.count("62.5") == 1


def test_limit_keeps_relevant_passages_and_distractors(small_data: Path) -> None:
    whole = make_task("retrieval:jaquad", Options(data_dir=small_data)).load()
    quick = make_task("retrieval:jaquad", Options(data_dir=small_data, limit=1)).load()
    assert isinstance(whole, SearchData)
    assert isinstance(quick, SearchData)
    assert quick.examples == whole.examples[:1]
    assert set(quick.search.relevant[quick.examples[0]]) < set(quick.search.corpus)
    assert len(quick.search.corpus) == 1 + min(20, len(whole.search.corpus) - 1)
    assert list(quick.search.corpus.items()) == list(whole.search.corpus.items())[:21]


def test_leaderboard_draws_plots(out: Path, tmp_path: Path) -> None:
    done = invoke("leaderboard", "--results", out, "--plots", tmp_path / "plots")
    assert done.exit_code == 0, done.output
    names = {path.name.split("-default")[0] for path in (tmp_path / "plots").glob("*.png")}
    assert names == {"fill-mask", "alignment-uniformity", "similarity"}


def test_font_of_plots_supports_japanese() -> None:
    font = FT2Font(font_manager.findfont(japanese_font()))
    assert all(font.get_char_index(ord(letter)) for letter in "日本語モデルの評価")


def test_trajectories_order_checkpoints_by_step() -> None:
    models = ["run/checkpoint-1000", "run/checkpoint-200", "run", "a/b@stage1-15k", "a/b@stage1-4k", "a/b@stage2-200k"]
    assert trajectories(models) == [["run/checkpoint-200", "run/checkpoint-1000"], ["a/b@stage1-4k", "a/b@stage1-15k"]]


def test_interrupted_command_keeps_finished_work(modernbert: Path, small_data: Path, tmp_path: Path) -> None:
    grid = ["--learning-rate", "1e-3", "--learning-rate", "1e-4", "--epochs", "1", "--epochs", "200"]
    command = ["evaluate", modernbert, "--tasks", "similarity,jsts", "--data-dir", small_data, "--device", "cpu"]
    with forked(*command, *grid, "--out", tmp_path) as running:
        while running.is_alive() and not list(tmp_path.rglob("0.001x1.json")):
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        ended = running.wait()
    assert ended.returncode == 130
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "ERROR" not in ended.stdout + ended.stderr
    assert len(list(Results(tmp_path).rows())) > 0
    assert {path.stem for path in (tmp_path / ".unfinished").rglob("*.json")} >= {"0.001x1"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupt_discarded_by_python_is_raised_again() -> None:
    class Finalised:
        """Receives the signal in its finaliser."""

        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        interrupts.check()
        Finalised()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "jnlp"], "no such task"),
        (["--tasks", ","], "--tasks is empty"),
        (["--tasks", "similarity", "--device", "cuda:99"], "--device cuda:99: not available here"),
        (["--tasks", "jsts", "--data-dir", "nowhere"], "no such folder"),
        (["--tasks", "fill-mask", "--prompts", "nowhere.jsonl"], "no such file"),
        (["--tasks", "similarity", "--pooling", "max"], "--pooling max"),
        (["--tasks", "pseudo-perplexity"], "reads 64 tokens"),
    ],
)
def test_invalid_arguments_are_reported(
    arguments: list[str], message: str, modernbert: Path, small_data: Path, tmp_path: Path
) -> None:
    given = [] if "--data-dir" in arguments else ["--data-dir", small_data]
    device = [] if "--device" in arguments else ["--device", "cpu"]
    done = invoke("evaluate", modernbert, *device, "--out", tmp_path, *arguments, *given)
    text = " ".join((done.output + str(done.exception)).split())
    assert done.exit_code != 0
    assert message in text
    assert not list(tmp_path.rglob("*.json"))


def test_failing_model_does_not_stop_other_models(modernbert: Path, small_data: Path, tmp_path: Path) -> None:
    shutil.copytree(modernbert, tmp_path / "narrow")
    shutil.copytree(modernbert, tmp_path / "few")
    for name, change in (("narrow", {"hidden_size": 64}), ("few", {"vocab_size": 20})):
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps({**config, **change}))
    models = [tmp_path / "narrow", tmp_path / "few", modernbert]
    common = ["--data-dir", small_data, "--device", "cpu", "--out", tmp_path / "out", "--limit", "1"]
    done = invoke("evaluate", *models, "--tasks", "fill-mask,similarity", *common)
    text = " ".join((done.output + str(done.exception)).split())
    assert isinstance(done.exception, UsageError)
    assert "4 measurements failed" in text
    assert "its tokenizer has" in text
    assert "but the model a vocabulary of 20" in text
    assert {(row.task, row.model) for row in Results(tmp_path / "out").rows()} == {
        (task, str(modernbert)) for task in ("fill-mask", "similarity")
    }


def test_any_error_of_a_measurement_is_reported_at_the_end(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = (ValueError, TypeError, KeyError, IndexError, AttributeError, MemoryError, torch.OutOfMemoryError)
    errors: dict[str, Exception] = {kind.__name__: kind("first\nsecond") for kind in kinds}
    measure = FillMask.measure

    def failing(self: FillMask, model: EvaluatedModel, *arguments: Any) -> Outcome:
        if model.label in errors:
            raise errors[model.label]
        return measure(self, model, *arguments)

    monkeypatch.setattr(FillMask, "measure", failing)
    models = [f"{name}={modernbert}" for name in (*errors, "good")]
    done = invoke("evaluate", *models, "--tasks", "fill-mask", "--limit", "3", "--device", "cpu", "--out", tmp_path)
    assert isinstance(done.exception, UsageError)
    message = str(done.exception)
    assert "\n" not in message
    assert f"{len(kinds)} measurements failed" in message
    assert all(message.count(f"fill-mask of {name}: {name}: ") == 1 for name in errors)
    assert "first" not in done.output
    assert {row.model for row in Results(tmp_path).rows()} == {"good"}


def test_broken_answers_of_a_measurement_are_reported_at_the_end(modernbert: Path, tmp_path: Path) -> None:
    common = ["--tasks", "fill-mask", "--limit", "3", "--device", "cpu", "--out", tmp_path]
    models = [f"one={modernbert}", f"two={modernbert}"]
    assert invoke("evaluate", *models, *common).exit_code == 0
    for content in ('{"text": "猫"}\n', "[" * 10_000, "\xff"):
        for path in tmp_path.rglob("one/*.instances.jsonl"):
            path.write_text(content, encoding="latin-1" if content == "\xff" else "utf-8")
        done = invoke("evaluate", *models, *common)
        assert isinstance(done.exception, UsageError)
        assert "1 measurements failed: comparison of fill-mask" in str(done.exception)
        assert "already measured" in done.output


def test_interrupt_during_a_measurement_ends_the_call(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(FillMask, "measure", interrupted)
    done = invoke("evaluate", modernbert, "--tasks", "fill-mask,similarity", "--limit", "3", "--out", tmp_path)
    assert done.exit_code == 130
    assert not list(tmp_path.rglob("*.json"))


def test_model_without_padding_does_not_stop_the_others(
    modernbert: Path, bert: Path, small_data: Path, tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(bert, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*")))
    words = Tokenizer(WordLevel({"[UNK]": 0, "猫": 1}, "[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(bare)
    common = ["--data-dir", small_data, "--device", "cpu", "--limit", "8", "--learning-rate", "1e-3", "--epochs", "1"]
    done = invoke("evaluate", bare, modernbert, "--tasks", "jcola", *common, "--out", tmp_path / "out")
    assert isinstance(done.exception, UsageError)
    assert "1 measurements failed: jcola of" in str(done.exception)
    assert "padding token" in str(done.exception)
    assert {row.model for row in Results(tmp_path / "out").rows()} == {str(modernbert)}
    done = invoke("evaluate", bare, f"good={modernbert}", "--text", "猫が[MASK]に行く。", "--device", "cpu")
    assert isinstance(done.exception, UsageError)
    assert "has no mask token" in str(done.exception)
    assert "good" in done.output


def test_same_reason_is_reported_once(modernbert: Path, small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    common = ["--data-dir", tmp_path / "nowhere", "--device", "cpu", "--out", tmp_path / "out"]
    done = invoke("evaluate", f"a={modernbert}", f"b={modernbert}", "--tasks", "jcola,jsts", *common)
    assert str(done.exception).startswith("4 measurements failed")
    assert (done.output + str(done.exception)).count("no such folder") == 1


def test_models_are_stored_under_their_given_names(modernbert: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a=b"
    shutil.copytree(modernbert, odd)
    common = ["--tasks", "fill-mask", "--limit", "3", "--device", "cpu", "--out", tmp_path / "out"]
    done = invoke("evaluate", f"わたしの=モデル={modernbert}", f"ours={modernbert}", odd, *common)
    assert isinstance(done.exception, UsageError)
    done = invoke("evaluate", f"ours={modernbert}", odd, odd, *common)
    assert done.exit_code == 0, done.output
    assert {row.model for row in Results(tmp_path / "out").rows()} == {"ours", str(odd)}
    for arguments in ((f"x={modernbert}", f"x={odd}"), (f"={modernbert}",), ("x=",)):
        done = invoke("evaluate", *arguments, *common)
        assert isinstance(done.exception, UsageError)


def test_changed_pooling_of_a_model_is_measured_again(modernbert: Path, small_data: Path, tmp_path: Path) -> None:
    model = EvaluatedModel(ModelName(str(modernbert), device="cpu"))
    folder = tmp_path / "model"
    common = ["--data-dir", small_data, "--device", "cpu", "--out", tmp_path / "out", "--limit", "20"]
    for mode in ("mean", "cls"):
        shutil.rmtree(folder, ignore_errors=True)
        sentence_transformer(model, mode).save(str(folder))
        done = invoke("evaluate", folder, "--tasks", "similarity", *common)
        assert done.exit_code == 0, done.output
        assert "already measured" not in done.output
    assert "already measured" in invoke("evaluate", folder, "--tasks", "similarity", *common).output


@pytest.mark.parametrize("name", ["2_Dense/model.safetensors", "sentence_bert_config.json"])
def test_changed_modules_of_a_model_are_measured_again(
    name: str, modernbert: Path, small_data: Path, tmp_path: Path
) -> None:
    folder, common = tmp_path / "model", ["--data-dir", small_data, "--device", "cpu", "--out", tmp_path / "out"]
    transformer = sentence_transformer(EvaluatedModel(ModelName(str(modernbert), device="cpu")))
    transformer.append(modules.Dense(32, 16))
    transformer.save(str(folder))
    command = ["evaluate", folder, "--tasks", "similarity", "--limit", "20", *common]
    assert invoke(*command).exit_code == 0
    assert "already measured" in invoke(*command).output
    if name.endswith(".json"):
        (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), "max_seq_length": 4}))
    else:
        save_file({key: -tensor for key, tensor in load_file(folder / name).items()}, folder / name)
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    assert "already measured" not in done.output


def test_one_text_without_a_mask_does_not_discard_the_others(modernbert: Path) -> None:
    texts = ["--text", "猫が[MASK]に行く。", "--text", "猫が駅に行く。"]
    done = invoke("evaluate", f"ours={modernbert}", *texts, "--device", "cpu")
    assert isinstance(done.exception, UsageError)
    # The text is numbered once, among all texts.
    assert "text 2 of ours: has no mask" in str(done.exception)
    assert "猫が[MASK]に行く。" in done.output


def _with_weights(model: Path, folder: Path, change: Callable[[Path], object]) -> Path:
    changed = Path(shutil.copytree(model, folder))
    change(changed / "model.safetensors")
    return changed


def _not_numbers(weights: Path) -> None:
    save_file({name: one * math.nan for name, one in load_file(weights).items()}, weights, {"format": "pt"})


def _as_pickle(weights: Path) -> None:
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


class _Code:
    """Runs a command when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (f"{tempfile.gettempdir()}/ran-{os.getpid()}",)


def _as_code(weights: Path) -> None:
    torch.save({**load_file(weights), "code": _Code()}, weights.with_name("pytorch_model.bin"))
    weights.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_not_numbers, "NaN logits|not finite|no score is a number"),
        (_as_code, "cannot be loaded as"),
        (lambda weights: os.truncate(weights, weights.stat().st_size // 2), "cannot be loaded as"),
        (Path.unlink, "holds no weights"),
    ],
)
@pytest.mark.parametrize("task", ["fill-mask", "similarity", "jcola"])
def test_broken_weights_are_reported(
    change: Callable[[Path], object], message: str, task: str, modernbert: Path, small_data: Path, tmp_path: Path
) -> None:
    broken = _with_weights(modernbert, tmp_path / "broken", change)
    grid = ["--learning-rate", "1e-3", "--epochs", "1", "--limit", "8"]
    out = tmp_path / "out"
    done = invoke(
        "evaluate", broken, "--tasks", task, "--data-dir", small_data, "--device", "cpu", "--out", out, *grid
    )
    text = " ".join((done.output + str(done.exception)).split())
    assert isinstance(done.exception, UsageError), text
    assert re.search(message, text)
    assert not list(out.glob("*/*/*.json"))
    assert not Path(tempfile.gettempdir(), f"ran-{os.getpid()}").exists()


def test_pickled_weights_equal_safetensors(modernbert: Path, tmp_path: Path) -> None:
    """Older encoders have no safetensors; torch reads only tensors."""
    pickled = _with_weights(modernbert, tmp_path / "pickled", _as_pickle)
    for folder in (modernbert, pickled):
        done = invoke("evaluate", folder, "--tasks", "fill-mask", "--limit", 5, "--device", "cpu", "--out", tmp_path)
        assert done.exit_code == 0, done.output
    first, second = (read_rows(path) for path in sorted((tmp_path / "fill-mask").glob("*/*.json")))
    assert [row.value for row in first] == [row.value for row in second]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("jaquad_train_0000.json.gz", gzip.compress(b'{"data": []}', mtime=0)[:-6], "the gzip file ends too early"),
        ("jaquad_train_0000.json.gz", gzip.compress(b"a" * 9, mtime=0)[:10] + b"\xff" * 30, "not a valid gzip file"),
        ("jaquad_train_0000.json.gz", b"no gzip", "not a valid gzip file"),
        ("jaquad_train_0000.json", b'{"data": []}', "contains no example"),
        ("jaquad_train_0000.json", b"[1]", "not in SQuAD's JSON layout"),
        ("jaquad_train_0000.json", b"\xff", "not UTF-8"),
    ],
)
def test_broken_data_files_are_reported(
    name: str, content: bytes, message: str, modernbert: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    done = invoke("evaluate", modernbert, "--tasks", "similarity", "--data-dir", tmp_path, "--out", tmp_path / "out")
    assert isinstance(done.exception, UsageError)
    assert re.search(f"{name}(, row 1|, after row 0)?: {message}", str(done.exception))


def test_broken_retrieval_data_are_reported(modernbert: Path, tmp_path: Path) -> None:
    def asked() -> str:
        done = invoke(
            "evaluate", modernbert, "--tasks", "retrieval", "--data-dir", tmp_path, "--out", tmp_path / "out"
        )
        assert isinstance(done.exception, UsageError)
        return str(done.exception)

    write_lines(tmp_path / "queries.jsonl", [{"_id": 1, "text": "猫"}])
    write_lines(tmp_path / "corpus.jsonl", [{"_id": 1, "text": None}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("1\t2\t1\n")
    assert "corpus.jsonl, line 1: 'text' is not a text" in asked()
    write_lines(tmp_path / "corpus.jsonl", [{"_id": 1, "title": None, "text": "犬"}])
    assert "test.tsv, line 1: passage 2 is not in corpus.jsonl" in asked()
    # MIRACL takes precedence over BEIR.
    passage = {"docid": "1#0", "title": "猫", "text": "猫は動物である。"}
    write_lines(tmp_path / "miracl-corpus-v1.0-ja/docs-0.jsonl", [passage])
    (tmp_path / "topics.miracl-v1.0-ja-dev.tsv").write_text("0 猫とは\n")
    (tmp_path / "qrels.miracl-v1.0-ja-dev.tsv").write_text("0\tQ0\t1#0\t1\n0\tQ0\t2#0\t1\n")
    assert "topics.miracl-v1.0-ja-dev.tsv, line 1: expected 2 columns" in asked()
    (tmp_path / "topics.miracl-v1.0-ja-dev.tsv").write_text("0\t猫とは\n")
    assert "passage 2#0 of qrels.miracl-v1.0-ja-dev.tsv is missing" in asked()


def test_broken_results_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "jsts/model/paper-0.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schema": 1, "rows": [{"task": "jsts"}]}))
    done = invoke("leaderboard", "--results", tmp_path)
    assert done.exit_code != 0
    assert str(path) in " ".join((done.output + str(done.exception)).split()).replace(" ", "")


@pytest.mark.parametrize(
    "grid", [1, [1], [{"learning_rate": 1e-3}], [{"learning_rate": "1e-3", "epochs": 1, "value": 0.5}]]
)
def test_mistyped_grid_of_a_result_is_reported(grid: object, out: Path, tmp_path: Path) -> None:
    source = next((out / "jcola").rglob("default-*.json"))
    payload = json.loads(source.read_text())
    payload["rows"][0]["grid"] = grid
    path = tmp_path / "jcola/model" / source.name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(payload))
    with pytest.raises(UsageError, match=rf"{path.name}: rows: 0\.grid"):
        read_rows(path)


def test_rows_are_plain_json_values(out: Path) -> None:
    for path in out.glob("*/*/*.json"):
        for row in json.loads(path.read_text())["rows"]:
            assert Row(**row)
