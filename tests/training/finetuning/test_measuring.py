"""Measurements of predictions, against scikit-learn, seqeval and definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from seqeval.metrics import classification_report
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from llm_jp_modernbert.training.finetuning.data.dataset import Examples
from llm_jp_modernbert.training.finetuning.finetune.measuring import (
    class_counts,
    class_scores,
    confusion,
    intervals,
    simplest_guess,
    worst_errors,
)
from llm_jp_modernbert.training.finetuning.head_task import HeadTask, Prediction
from llm_jp_modernbert.training.finetuning.multiple_choice import MultipleChoice
from llm_jp_modernbert.training.finetuning.ner import Ner, Sentence, character_tags, tags_of
from llm_jp_modernbert.training.finetuning.qa import Question, QuestionAnswering
from llm_jp_modernbert.training.finetuning.text import (
    Classification,
    MultiLabelClassification,
    Regression,
    Texts,
    tuned_thresholds,
)

DRAWN = np.random.default_rng(0)
SIZE = 80
LABELS = ("天気", "食", "旅")


def choose(right: str) -> str:
    return right if DRAWN.random() < 0.6 else str(DRAWN.choice(LABELS))


def entities() -> tuple[Any, ...]:
    return tuple((start, start + 2, str(DRAWN.choice(LABELS))) for start in (0, 4, 8) if DRAWN.random() < 0.6)


GOLD = [str(DRAWN.choice(LABELS)) for _ in range(SIZE)]
SETS = [tuple(label for label in LABELS if DRAWN.random() < 0.5) for _ in range(SIZE)]
GUESSED_SETS = [[label for label in LABELS if (label in labels) ^ (DRAWN.random() < 0.2)] for labels in SETS]
SENTENCES = [Sentence("あ" * 12, entities()) for _ in range(SIZE)]
SCORES = DRAWN.random(SIZE)

CASES: dict[str, tuple[HeadTask[Any], list[Any], list[Any]]] = {
    "classification": (
        Classification(LABELS),
        [Texts(("文",), label) for label in GOLD],
        [choose(label) for label in GOLD],
    ),
    "multi-label": (MultiLabelClassification(LABELS), [Texts(("文",), labels) for labels in SETS], GUESSED_SETS),
    "multiple-choice": (
        MultipleChoice(LABELS),
        [Texts(("問", "一", "二", "三"), label) for label in GOLD],
        [choose(label) for label in GOLD],
    ),
    "regression": (
        Regression(),
        [Texts(("文",), float(score)) for score in SCORES],
        list(SCORES + 0.3 * DRAWN.standard_normal(SIZE)),
    ),
    "ner": (
        Ner(tags_of(LABELS)),
        SENTENCES,
        [list(map(list, sentence.entities if DRAWN.random() < 0.7 else entities())) for sentence in SENTENCES],
    ),
    "qa": (
        QuestionAnswering(),
        [Question("何？", "猫が眠る。", ("猫",), 0) for _ in range(SIZE)],
        [str(DRAWN.choice(["猫", "猫が", "眠る"])) for _ in range(SIZE)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_resampled_statistics_equal_scores_of_the_resampled_examples(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, examples, predictions = CASES[name]
    resamples = np.random.default_rng(1).integers(0, SIZE, (12, SIZE))

    def statistics(samples: Sequence[np.ndarray], statistic: Callable[..., Any], seed: int) -> Any:
        return statistic(*(sample[resamples] for sample in samples), axis=-1)

    monkeypatch.setattr("llm_jp_modernbert.training.finetuning.finetune.measuring.bootstrap", statistics)
    computed: dict[str, Any] = intervals(task, examples, predictions, seed=0)
    assert computed.keys() == task.scores(examples, predictions).keys()
    for number, rows in enumerate(resamples):
        expected = task.scores([examples[row] for row in rows], [predictions[row] for row in rows])
        for metric, value in expected.items():
            assert computed[metric][number] == pytest.approx(value, abs=1e-6), metric


def test_intervals_shrink_with_the_number_of_examples() -> None:
    """Intervals shrink with the square root of the number of examples."""
    task = Classification(LABELS)
    small, large = (
        intervals(task, CASES["classification"][1] * times, CASES["classification"][2] * times, seed=0)
        for times in (1, 16)
    )
    for metric, (low, high) in large.items():
        before = small[metric]
        assert low is not None
        assert high is not None
        assert before[0] is not None
        assert before[1] is not None
        assert (before[1] - before[0]) / (high - low) == pytest.approx(4, rel=0.15)


def test_scores_by_class_equal_scikit_learn() -> None:
    task, examples, predictions = CASES["classification"]
    expected = precision_recall_fscore_support(GOLD, predictions, labels=LABELS)
    for place, scores in enumerate(class_scores(class_counts(task, examples, predictions))):
        assert [scores["precision"], scores["recall"], scores["f1"]] == pytest.approx(
            [column[place] for column in expected[:3]]
        )


def test_scores_by_type_equal_seqeval() -> None:
    task, examples, predictions = CASES["ner"]
    gold = [character_tags(example.text, example.entities) for example in examples]
    predicted = [character_tags(example.text, value) for example, value in zip(examples, predictions, strict=True)]
    expected: Any = classification_report(gold, predicted, output_dict=True)
    for label, scores in zip(LABELS, class_scores(class_counts(task, examples, predictions)), strict=True):
        assert scores["f1"] == pytest.approx(expected[label]["f1-score"])
        assert scores["precision"] == pytest.approx(expected[label]["precision"])


def test_confusion_matrix_equals_scikit_learn() -> None:
    for name in ("classification", "multiple-choice"):
        task, examples, predictions = CASES[name]
        assert confusion(task, examples, predictions) == confusion_matrix(GOLD, predictions, labels=LABELS).tolist()
    for name in ("multi-label", "regression", "qa"):
        assert confusion(*CASES[name]) is None


def test_confusion_matrix_of_many_classes_is_left_out() -> None:
    labels = tuple(f"class {number}" for number in range(5000))
    examples = [Texts(("a",), label) for label in labels]
    assert confusion(Classification(labels), examples, labels) is None


def test_confusion_matrix_of_entities_has_a_class_for_missing_ones() -> None:
    task = Ner(tags_of(("人", "地")))
    sentences = [Sentence("山田は京都にいた", ((0, 2, "人"), (3, 5, "地")))]
    assert confusion(task, sentences, [[[0, 2, "地"], [3, 4, "地"]]]) == [[0, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_thresholds_have_the_highest_f1() -> None:
    gold = DRAWN.integers(0, 2, (60, 4))
    probabilities = np.clip(0.5 * gold + 0.7 * DRAWN.random((60, 4)) - 0.1, 0, 1)
    gold[:, 3] = 0
    thresholds = tuned_thresholds(probabilities, gold)
    for label in range(3):
        best = max(f1_score(gold[:, label], probabilities[:, label] >= value) for value in probabilities[:, label])
        assert f1_score(gold[:, label], probabilities[:, label] >= thresholds[label]) == pytest.approx(best)
    assert thresholds[3] == 0.5


def test_threshold_of_separated_labels_is_a_half() -> None:
    gold = np.array([[0], [0], [1], [1]])
    assert tuned_thresholds(np.array([[0.1], [0.3], [0.7], [0.9]]), gold) == (0.5,)
    assert tuned_thresholds(np.array([[0.1], [0.2], [0.3], [0.4]]), gold) == pytest.approx((0.25,))


def test_simplest_guesses() -> None:
    guesses = {name: simplest_guess(task, examples)[0] for name, (task, examples, _) in CASES.items()}
    assert GOLD.count(guesses["classification"]) == max(map(GOLD.count, LABELS))
    assert SETS.count(tuple(guesses["multi-label"])) == max(map(SETS.count, SETS))
    assert guesses["regression"] == pytest.approx(SCORES.mean())
    assert guesses["ner"] == []
    assert guesses["qa"] == "猫"


def test_errors_are_ordered_by_confidence() -> None:
    task, examples, predictions = CASES["classification"]
    part = Examples("data.csv", "", examples, [f"data.csv, row {row}" for row in range(SIZE)])
    sure = [Prediction(value, float(DRAWN.random())) for value in predictions]
    errors = worst_errors(task, part, sure, limit=10)
    wrong = [p.confidence for p, label in zip(sure, GOLD, strict=True) if p.value != label]
    assert [error["confidence"] for error in errors] == sorted(wrong, reverse=True)[:10]
    assert all(error["gold"] != error["predicted"] and error["place"].startswith("data.csv") for error in errors)
