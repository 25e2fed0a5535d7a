"""The command finetune: from data to a directory that plain transformers loads."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoints import LABELS, write_model
from transformers import AutoConfig, TrainerControl, TrainerState, pipeline

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock
from llm_jp_modernbert.core.results import Results, instances_of
from llm_jp_modernbert.evaluation.report.leaderboard import leaderboard, render
from llm_jp_modernbert.inference.heads import QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Head
from llm_jp_modernbert.training.finetuning.finetune import finetune
from llm_jp_modernbert.training.finetuning.finetune.folder import Finetuned, read_finished
from llm_jp_modernbert.training.finetuning.finetune.progress import EpochLines
from llm_jp_modernbert.training.finetuning.options import FinetuneOptions

ANIMALS, FOODS, PLACES = ["猫", "犬", "鳥"], ["寿司", "うどん", "パン"], ["駅", "港", "丘"]
OVERRIDES = ["learning_rate=3e-3", "num_train_epochs=2", "per_device_train_batch_size=8"]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def texts(first: int, count: int) -> list[dict[str, Any]]:
    """Texts about animals or food."""
    words = [ANIMALS[n % 3] if n % 2 else FOODS[n % 3] for n in range(first, first + count)]
    return [
        {"text": f"{number}番は{word}です。", "label": "動物" if word in ANIMALS else "食べ物"}
        for number, word in enumerate(words, start=first)
    ]


def rows_of(kind: str) -> list[dict[str, Any]]:
    """Forty examples of a type of task."""
    rows: list[dict[str, Any]] = []
    for number in range(40):
        animal, food, place = ANIMALS[number % 3], FOODS[number // 2 % 3], PLACES[number // 3 % 3]
        text = f"{animal}が{place}で{food}を食べた。{number}"
        rows.append(
            {
                "classification": {"text": text, "labels": [word for word in ("猫", "寿司", "港") if word in text]},
                "regression": {"text": text, "score": 1.5 * (number % 3)},
                "pair-classification": {
                    "sentence1": text,
                    "sentence2": f"{ANIMALS[0]}がいた。",
                    "label": ["いいえ", "はい"][animal == ANIMALS[0]],
                },
                "ner": {
                    "text": text,
                    "entities": [
                        {"span": [0, 1], "type": "動物"},
                        {"span": [2, 3], "type": "場所"},
                    ],
                },
                "qa": {
                    "question": "どこで？",
                    "context": text,
                    "answers": {"text": [place], "answer_start": [2]}
                    if number % 4
                    else {"text": [], "answer_start": []},
                },
                "multiple-choice": {
                    "question": text,
                    "choice0": "動物",
                    "choice1": food,
                    "choice2": place,
                    "label": number % 3,
                },
            }[kind]
        )
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for part, first, count in (("train", 0, 40), ("validation", 40, 16), ("test", 56, 12)):
        write(folder / f"{part}.jsonl", texts(first, count))
    return folder


def options(model: Path, data: Path, out: Path, **changes: Any) -> FinetuneOptions:
    keys: dict[str, Any] = {
        "kind": "classification",
        "base": str(model),
        "overrides": OVERRIDES,
        "train": [str(data / "train.jsonl")],
        "validation": [str(data / "validation.jsonl")],
        "test": [str(data / "test.jsonl")],
        "out": out,
        "seeds": 2,
    }
    return FinetuneOptions(**{**keys, **changes})


@pytest.fixture(scope="module")
def finished(modernbert: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    """A classifier, trained with two seeds."""
    return finetune(options(modernbert, data, tmp_path_factory.mktemp("out") / "classifier"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def predictions(finished: Finetuned, part: str) -> list[Any]:
    """The stored predictions of the kept model."""
    for path in Results(finished.folder / "results").files():
        (first, *_) = json.loads(path.read_text(encoding="utf-8"))["rows"]
        if first["split"] == part and first["seed"] == finished.record["best_seed"]:
            lines = instances_of(path).read_text(encoding="utf-8").splitlines()
            return [json.loads(line)["prediction"] for line in lines]
    raise LookupError(part)


def labels(classify: Any) -> list[str]:
    """A pipeline's labels of the test examples."""
    return [answer["label"] for answer in classify([row["text"] for row in texts(56, 12)])]


def test_pipeline_of_transformers_predicts_the_same(finished: Finetuned) -> None:
    classify = pipeline("text-classification", model=str(finished.folder))
    assert type(classify.model) is transformers.ModernBertForSequenceClassification
    assert labels(classify) == predictions(finished, "test")


def test_model_learns_more_than_the_most_frequent_label(finished: Finetuned) -> None:
    for row in finished.rows:
        assert row.value is not None
        assert row.baseline is not None
        assert row.value > row.baseline


def test_directory_holds_model_record_report_plots_and_errors(finished: Finetuned) -> None:
    names = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*") if path.is_file()}
    assert {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("finetuning.json", "recipe.yaml", "report.md", "errors.jsonl"),
        *("assets/confusion.png", "assets/per-class.png", "assets/training.png"),
    } <= names
    assert not any(name.startswith("unfinished") for name in names)
    report = (finished.folder / "report.md").read_text(encoding="utf-8")
    assert "動物" in report
    assert "assets/confusion.png" in report


def test_best_seed_on_validation_is_kept_and_only_it_is_tested(finished: Finetuned) -> None:
    scores = {seed["seed"]: seed["metrics"]["validation"]["macro_f1"] or 0.0 for seed in finished.record["seeds"]}
    assert scores[finished.record["best_seed"]] == max(scores.values())
    tested = [seed["seed"] for seed in finished.record["seeds"] if "test" in seed["metrics"]]
    assert tested == [finished.record["best_seed"]]
    assert {row.seed for row in finished.rows if row.split == "test"} == {finished.record["best_seed"]}


def test_test_examples_do_not_affect_the_model(
    finished: Finetuned, modernbert: Path, data: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "other.jsonl", texts(90, 10))
    again = finetune(options(modernbert, data, tmp_path / "classifier", test=[other]))
    for name, weight in weights(again.folder).items():
        assert torch.equal(weight, weights(finished.folder)[name]), name


def test_leaderboard_shows_mean_and_deviation_over_seeds(finished: Finetuned) -> None:
    table = leaderboard(Results(finished.folder / "results").rows())
    assert table.models == ["classifier"]
    column = next(column for column in table.columns if (column.split, column.metric) == ("validation", "accuracy"))
    values = [seed["metrics"]["validation"]["accuracy"] or 0.0 for seed in finished.record["seeds"]]
    assert sorted(table.cells["classifier", column].values) == pytest.approx(sorted(values))
    assert "±" in render(table, "markdown")


def test_rerun_of_a_finished_command_shows_its_scores_again(
    finished: Finetuned, modernbert: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = (finished.folder / "model.safetensors").stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "llm_jp_modernbert"):
        again = finetune(options(modernbert, data, finished.folder))
    assert again == finished
    assert (finished.folder / "model.safetensors").stat().st_mtime_ns == before
    assert "already finished" in caplog.text
    assert "macro_f1" in caplog.text


def test_other_options_in_the_same_directory_are_an_error(finished: Finetuned, modernbert: Path, data: Path) -> None:
    with pytest.raises(UsageError, match=r"learning_rate: 0\.003 then, 0\.001 now"):
        finetune(options(modernbert, data, finished.folder, overrides=["learning_rate=1e-3", *OVERRIDES[1:]]))
    with pytest.raises(UsageError, match="seeds: 2 then, 3 now"):
        finetune(options(modernbert, data, finished.folder, seeds=3))


def test_changed_data_in_the_same_directory_is_an_error(modernbert: Path, data: Path, finished: Finetuned) -> None:
    path = data / "test.jsonl"
    content = path.read_bytes()
    path.write_bytes(content + content.splitlines()[0] + b"\n")
    try:
        with pytest.raises(UsageError, match=r"data_revisions\.test"):
            finetune(options(modernbert, data, finished.folder))
    finally:
        path.write_bytes(content)


def test_directory_with_other_files_is_an_error(modernbert: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        finetune(options(modernbert, data, tmp_path))


def test_two_runs_in_one_directory_exclude_each_other(modernbert: Path, data: Path, tmp_path: Path) -> None:
    with lock(tmp_path / "out", "finetune"), pytest.raises(UsageError, match="another finetune"):
        finetune(options(modernbert, data, tmp_path / "out"))


def test_rerun_after_a_signal_equals_an_uninterrupted_run(
    finished: Finetuned, modernbert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first seed is finished, and the second one is interrupted within its second epoch."""
    steps: list[int] = []

    def interrupt(self: EpochLines, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps.append(state.global_step)
        if len(steps) == 10 + 7:
            os.kill(os.getpid(), signal.SIGTERM)

    chosen = options(modernbert, data, tmp_path / "classifier")
    with monkeypatch.context() as patched:
        patched.setattr(EpochLines, "on_step_end", interrupt)
        with pytest.raises(UsageError, match=r"SIGTERM: stopped in seed 43.*same command"):
            finetune(chosen)
        assert not (chosen.out / "config.json").exists()
        before = len(steps)
        again = finetune(chosen)
    assert len(steps) - before < 10
    assert again.record["seeds"] == finished.record["seeds"]
    for name, weight in weights(again.folder).items():
        assert torch.allclose(weight, weights(finished.folder)[name], atol=1e-6), name


def test_line_of_an_epoch_has_its_mean_loss(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    lines, state = EpochLines("seed 42", "accuracy"), TrainerState(epoch=1.0)
    for losses in ([3.0, 1.0], [0.5, 0.0]):
        for loss in losses:
            lines.on_log(None, state, TrainerControl(), logs={"loss": loss})
        lines.on_evaluate(None, state, TrainerControl(), metrics={"eval_accuracy": 0.5})
    assert [re.findall(r"loss ([\d.]+)", line) for line in caplog.messages] == [["2.000"], ["0.250"]]


def test_signal_in_the_last_step_of_a_seed_stops_before_the_next(
    modernbert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: EpochLines, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            os.kill(os.getpid(), signal.SIGTERM)

    chosen = options(modernbert, data, tmp_path / "out", overrides=["max_steps=2", "eval_strategy=no"])
    with monkeypatch.context() as patched:
        patched.setattr(EpochLines, "on_step_end", interrupt)
        with pytest.raises(UsageError, match=r"SIGTERM: stopped before seed 43.*same command"):
            finetune(chosen)
    # Both seeds were evaluated after their last step, although no evaluation was due before.
    assert [seed["epoch"] for seed in finetune(chosen).record["seeds"]] == [1.0, 1.0]


@pytest.mark.parametrize(
    "kind", ["classification", "regression", "pair-classification", "ner", "qa", "multiple-choice"]
)
def test_every_task_leaves_a_complete_directory(modernbert: Path, tmp_path: Path, kind: Any) -> None:
    """With Japanese labels in its plots, and a tenth of the examples held out."""
    train = write(tmp_path / "train.jsonl", rows_of(kind))
    chosen = FinetuneOptions(
        kind, str(modernbert), [*OVERRIDES[:1], "num_train_epochs=2"], [train], out=tmp_path / "out"
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")
        model = finetune(chosen)
    assert model.record["kind"] == kind
    assert model.record["parts"]["validation"]["rows"] >= 2
    assert {row.split for row in model.rows} == {"validation"}
    assert all(row.low is not None for row in model.rows if row.metric == model.record["metric"])
    config = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "modernbert"
    for line in (model.folder / "errors.jsonl").read_text(encoding="utf-8").splitlines():
        assert "train.jsonl, row" in json.loads(line)["place"]


def test_base_with_a_head_for_other_labels_gets_a_new_head(
    finished: Finetuned, tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "label": row["label"] == "動物"} for row in texts(0, 40)]
    train = write(tmp_path / "train.jsonl", [{**row, "label": f"is {row['label']}"} for row in rows])
    chosen = FinetuneOptions(
        "classification",
        str(finished.folder),
        ["learning_rate=1e-9", "num_train_epochs=1"],
        [train],
        out=tmp_path / "out",
    )
    with caplog.at_level(logging.INFO, "llm_jp_modernbert"):
        again = finetune(chosen)
    assert "other labels (動物, 食べ物)" in caplog.text or "other labels (食べ物, 動物)" in caplog.text
    old, new = weights(finished.folder), weights(again.folder)
    assert not torch.allclose(new["classifier.weight"], old["classifier.weight"], atol=1e-3)
    for name in old:
        if name.startswith("model."):
            assert torch.allclose(new[name], old[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (TOKEN_CLASSIFICATION, "classification"),
        (SEQUENCE_CLASSIFICATION, "qa"),
        (TOKEN_CLASSIFICATION, "multiple-choice"),
        (QUESTION_ANSWERING, "ner"),
    ],
)
def test_base_with_a_head_for_another_task_gets_a_new_head(tmp_path: Path, head: Head, kind: Any) -> None:
    """Even if its weights have the same names and sizes, and without its labels."""
    base = write_model(tmp_path / "base", head)
    train = write(tmp_path / "train.jsonl", rows_of(kind))
    keys = ["learning_rate=1e-9", "num_train_epochs=1"]
    model = finetune(FinetuneOptions(kind, str(base), keys, [train], out=tmp_path / "out"))
    old, new = weights(base), weights(model.folder)
    assert not torch.allclose(new["head.dense.weight"], old["head.dense.weight"], atol=1e-3)
    assert torch.allclose(new["model.layers.0.mlp.Wi.weight"], old["model.layers.0.mlp.Wi.weight"], atol=1e-6)
    config = AutoConfig.from_pretrained(model.folder)
    assert not {*config.id2label.values()} & {*LABELS}
    assert len(new["classifier.weight"]) == (1 if kind == "multiple-choice" else config.num_labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "missing/"}, "no such directory"),
        ({"max_length": 100_000}, "--max-length 100,000"),
        ({"overrides": ["learning_rat=1"]}, "learning_rat"),
    ],
)
def test_mistakes_are_one_line(
    modernbert: Path, data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        finetune(options(modernbert, data, tmp_path / "out", **changes))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_base_without_tokenizer_is_one_line(modernbert: Path, data: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "model.safetensors"):
        (base / name).write_bytes((modernbert / name).read_bytes())
    with pytest.raises(UsageError, match=r"no tokenizer found.*--tokenizer"):
        finetune(options(base, data, tmp_path / "out"))
    assert finetune(options(base, data, tmp_path / "out", tokenizer=str(modernbert), seeds=1)).folder.is_dir()


def test_unreadable_weights_leave_no_directory(modernbert: Path, data: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(modernbert, base)
    (base / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UsageError, match="base: cannot be loaded as AutoModelForSequenceClassification"):
        finetune(options(base, data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_other_encoders_keep_their_format(bert: Path, data: Path, tmp_path: Path) -> None:
    model = finetune(options(bert, data, tmp_path / "out", seeds=1))
    classify = pipeline("text-classification", model=str(model.folder))
    assert type(classify.model) is transformers.BertForSequenceClassification
    assert [answer["label"] for answer in classify([row["text"] for row in texts(56, 12)])] == predictions(
        model, "test"
    )


def test_adapters_are_merged_into_the_model(modernbert: Path, data: Path, tmp_path: Path) -> None:
    model = finetune(options(modernbert, data, tmp_path / "out", seeds=1, lora=True, lora_rank=4))
    assert model.record["lora"]
    assert not any("lora" in name for name in weights(model.folder))
    classify = pipeline("text-classification", model=str(model.folder))
    assert [answer["label"] for answer in classify([row["text"] for row in texts(56, 12)])] == predictions(
        model, "test"
    )


def test_base_with_a_decoder_is_one_line(modernbert: Path, data: Path, tmp_path: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=400, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    transformers.BartForConditionalGeneration(config).save_pretrained(tmp_path / "bart")
    with pytest.raises(UsageError, match="not an encoder: bart models have a decoder"):
        finetune(options(tmp_path / "bart", data, tmp_path / "out", tokenizer=str(modernbert)))


def test_truncated_rows_are_counted_and_named(
    modernbert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "text": row["text"] * (9 if number == 7 else 1)} for number, row in enumerate(texts(0, 40))]
    train = write(tmp_path / "train.jsonl", rows)
    chosen = options(modernbert, tmp_path, tmp_path / "out", train=[train], validation=[], test=[], max_length=40)
    with caplog.at_level(logging.INFO, "llm_jp_modernbert"):
        model = finetune(chosen)
    truncated = [part for part, values in model.record["parts"].items() if values["truncated"]]
    assert len(truncated) == 1
    assert f"1 {truncated[0]} row longer than 40 tokens" in caplog.text
    assert f"{train}, row 8 (" in caplog.text


@pytest.mark.slow
def test_two_processes_train_one_model(modernbert: Path, data: Path, tmp_path: Path) -> None:
    import llm_jp_modernbert.training as package

    configuration = Path(package.__path__[0]) / "accelerate/cpu-2.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    command += ["--config_file", str(configuration), "-m", "llm_jp_modernbert.training.finetuning.finetune"]
    command += ["classification", str(modernbert), *OVERRIDES, "--out", str(tmp_path / "out")]
    command += ["--train", str(data / "train.jsonl"), "--test", str(data / "test.jsonl")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("The model is in") == 1
    assert "2 processes" in read_finished(tmp_path / "out").record["device"]
