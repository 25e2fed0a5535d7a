"""Fine-tuning tasks, against transformers, scikit-learn and scipy."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from evaluation_data import make_task, write_lines
from filelock import FileLock
from scipy.stats import pearsonr, spearmanr
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, matthews_corrcoef
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    ModernBertForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.data.options import Options
from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
from llm_jp_modernbert.evaluation.tasks.finetuning import FineTuning, Splits, hold_out
from llm_jp_modernbert.evaluation.tasks.grid import Point, Trial, best, points, search
from llm_jp_modernbert.evaluation.tasks.task import Outcome

FINE_TUNED = ("jsts", "jnli", "jcola", "jcommonsenseqa", "marc-ja", "jsquad", "ner")


def run(name: str, model: EvaluatedModel, options: Options) -> tuple[Splits, Outcome]:
    task = make_task(name, options)
    data = task.load()
    assert isinstance(data, Splits)
    return data, task.measure(model, data, lambda share: None)


@pytest.mark.parametrize("name", FINE_TUNED)
def test_scores_equal_scikit_learn_and_scipy(name: str, any_model: EvaluatedModel, small_data: Path) -> None:
    options = Options(data_dir=small_data, learning_rates=(1e-3,), epochs=(1,))
    data, outcome = run(name, any_model, options)
    assert len(outcome.instances) == len(data.examples)
    rows = {(row.metric, row.split): row for row in outcome.measurements}
    predictions = [item["prediction"] for item in outcome.instances]
    labels = [item["label"] for item in outcome.instances]
    if name == "jsts":
        for metric, statistic in (("pearson", pearsonr), ("spearman", spearmanr)):
            assert rows[metric, "validation"].value == pytest.approx(statistic(labels, predictions).statistic)
    elif name not in ("jsquad", "ner"):
        row = rows["accuracy", "validation"]
        assert row.value == pytest.approx(accuracy_score(labels, predictions))
        blank = [[0]] * len(labels)
        majority = DummyClassifier(strategy="most_frequent").fit(blank, labels)
        assert row.baseline == pytest.approx(majority.score(blank, labels))
    if name == "jcola":
        assert rows["mcc", "validation"].value == pytest.approx(matthews_corrcoef(labels, predictions))
    if name == "ner":
        # Every entity is a separate word, so every tokenizer can represent some.
        assert 0 <= (rows["f1", "test"].value or 0) <= (rows["f1_ceiling", "test"].value or 0) <= 1
    assert all(row.selected_on == "dev" for key, row in rows.items() if key[0] != "f1_ceiling")


def test_fine_tuning_learns_entities(any_model: EvaluatedModel, small_data: Path) -> None:
    options = Options(data_dir=small_data, learning_rates=(3e-3,), epochs=(60,))
    _, outcome = run("ner", any_model, options)
    figures = {(row.metric, row.split): row.value for row in outcome.measurements}
    assert (figures["f1", "test"] or 0) > 0.6


def test_predictions_equal_plain_trainer(modernbert: Path, small_data: Path, tmp_path: Path) -> None:
    # The checkpoint contains the classifier, so both trainings start from equal weights.
    model = ModernBertForSequenceClassification.from_pretrained(modernbert, num_labels=1)
    model.save_pretrained(tmp_path / "scorer")
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    tokenizer.save_pretrained(tmp_path / "scorer")
    options = Options(protocol="paper", data_dir=small_data, learning_rates=(1e-3,), epochs=(3,), seed=1)
    _, outcome = run("jsts", EvaluatedModel(ModelName(str(tmp_path / "scorer"), device="cpu")), options)

    def inputs(split: str) -> list[dict[str, Any]]:
        lines = (small_data / f"jsts-v1.3/{split}-v1.3.json").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [{**tokenizer(row["sentence1"], row["sentence2"]), "labels": float(row["label"])} for row in rows]

    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        learning_rate=1e-3,
        num_train_epochs=3,
        per_device_train_batch_size=32,
        seed=1,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
    )
    trainer: Any = Trainer(
        model, arguments, train_dataset=inputs("train"), data_collator=DataCollatorWithPadding(tokenizer)
    )
    trainer.train()
    grades = trainer.predict(inputs("valid")).predictions.reshape(-1)
    assert [item["prediction"] for item in outcome.instances] == pytest.approx(grades.tolist(), abs=1e-4)


def test_paper_protocol_selects_on_reported_split(any_model: EvaluatedModel, small_data: Path) -> None:
    options = Options(protocol="paper", data_dir=small_data, learning_rates=(1e-3, 1e-4), epochs=(1,), limit=20)
    data, outcome = run("jsts", any_model, options)
    assert not data.dev
    assert len(data.train) == 20
    assert {row.split for row in outcome.measurements} == {"validation"}
    for row in outcome.measurements:
        assert row.selected_on == "validation"
    pearson = outcome.measurements[0]
    assert pearson.value == max(point["value"] for point in pearson.grid)


def test_grid_sizes_of_protocols() -> None:
    def grid(protocol: str) -> list[Point]:
        task = make_task("jsts", Options(protocol=protocol))
        assert isinstance(task, FineTuning)
        return points(task.learning_rates, task.epochs)

    assert len(grid("paper")) == 36
    assert len(grid("default")) == 6


def test_interrupted_grid_resumes(tmp_path: Path) -> None:
    trained: list[str] = []

    def train(point: Point, progress: object) -> Trial:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(str(point))
        return Trial(point, {"dev": {"f1": point.learning_rate}}, [1, "答え"])

    grid = points((1e-5, 2e-5), (3, 4))
    with pytest.raises(KeyboardInterrupt):
        search(grid, tmp_path, train, lambda share: None, wait=True)
    assert len(list(tmp_path.glob("*.json"))) == 3
    trained.clear()
    shares: list[float] = []
    trials = search(grid, tmp_path, train, shares.append, wait=True)
    assert trained == [str(grid[3])]
    assert [trial.point for trial in trials] == grid
    assert trials[0].predictions == [1, "答え"]
    assert best(trials, "dev", "f1").point == grid[2]


@pytest.mark.parametrize("content", ["{", "[" * 10_000, "[]", '{"scores": 1}', '{"scores": {"dev": {"f1": "0.5"}}}'])
def test_broken_grid_point_is_trained_again(content: str, tmp_path: Path) -> None:
    (grid_point,) = points((1e-3,), (1,))
    (tmp_path / f"{grid_point}.json").write_text(content)
    trained = Trial(grid_point, {"dev": {"f1": 0.5}}, [1])
    for _ in range(2):
        assert search([grid_point], tmp_path, lambda *_: trained, lambda share: None, wait=True) == [trained]


def test_learning_rates_that_differ_in_the_last_digit_are_different_points(tmp_path: Path) -> None:
    grid = points((1e-3, 1.0000001e-3), (1,))
    trials = search(grid, tmp_path, lambda point, _: Trial(point, {}, []), lambda share: None, wait=True)
    assert [trial.point for trial in trials] == grid
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_grid_survives_deletion_of_its_folder_during_training(tmp_path: Path) -> None:
    folder = tmp_path / "grid"

    def train(point: Point, progress: object) -> Trial:
        shutil.rmtree(folder)
        return Trial(point, {"dev": {"f1": point.learning_rate}}, [])

    grid = points((1e-5, 2e-5), (3, 4))
    assert [trial.point for trial in search(grid, folder, train, lambda share: None, wait=True)] == grid


def test_grid_survives_deletion_of_its_folder_while_waiting(tmp_path: Path) -> None:
    grid, folder = points((1e-3,), (1,)), tmp_path / "grid"
    folder.mkdir()
    with ThreadPoolExecutor(1) as pool, FileLock((folder / f"{grid[0]}.json").with_suffix(".lock")):
        waiting = pool.submit(search, grid, folder, lambda point, _: Trial(point, {}, []), lambda share: None, True)
        time.sleep(0.3)
        # Renamed first: the waiting process may create its lock file while a directory is removed.
        shutil.rmtree(folder.rename(tmp_path / "deleted"))
        assert [trial.point for trial in waiting.result(timeout=120)] == grid


def test_trial_without_score_is_not_selected() -> None:
    tried = [Trial(Point(1e-5, number), {"dev": {"f1": score}}, []) for number, score in enumerate((None, -0.5, -0.7))]
    assert best(tried, "dev", "f1").point.epochs == 1


def test_held_out_examples_are_independent_of_the_others() -> None:
    examples = [f"例{number}" for number in range(2000)]
    stay, held = hold_out(examples, 10, str)
    assert 150 < len(held) < 250
    assert sorted(stay + held) == sorted(examples)
    assert hold_out(examples[::-1][:500], 10, str)[1] == [one for one in examples[::-1][:500] if one in set(held)]


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("jnli", {"sentence1": "猫", "sentence2": "犬", "label": "maybe"}, "line 1: label 'maybe' is not one of"),
        ("jsts", {"sentence1": "猫", "sentence2": "犬", "label": 7}, "line 1: label 7 is not a grade"),
        ("jcola", {"sentence": "猫", "label": 2}, "line 1: label 2 is not one of"),
        ("jsts", {"premise": "猫", "label": 1}, "line 1: not in the layout of JSTS"),
    ],
)
def test_invalid_rows_are_reported(
    task: str, row: dict[str, object], message: str, small_data: Path, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "train.jsonl", [row])
    with pytest.raises(UsageError, match=message):
        make_task(task, Options(data_dir=small_data, train_files=(path,))).load()


def test_missing_data_name_their_origin(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"github\.com/yahoojapan/JGLUE"):
        make_task("jsts", Options(data_dir=tmp_path)).load()


def test_jnli_neg_is_a_training_file_of_jnli(small_data: Path, tmp_path: Path) -> None:
    rows = [
        {
            "sentence1": {"sentence": f"犬が{number}匹いる。"},
            "sentence2": {"sentence": "犬はいない。"},
            "gold_label": "contradiction",
        }
        for number in range(40)
    ]
    path = write_lines(tmp_path / "neg.jsonl", rows)
    data = make_task("jnli", Options(data_dir=small_data, train_files=(path,))).load()
    assert (data.name, data.train_files) == ("JNLI", ("neg.jsonl",))
    assert isinstance(data, Splits)
    assert len(data.train) + len(data.dev) == 40
    assert json.dumps(data.train[0].texts, ensure_ascii=False).count("犬") == 2
