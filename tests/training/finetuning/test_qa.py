"""Unanswerable questions are learned, found and scored as defined by SQuAD 2.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from llm_jp_modernbert import LlmJpModernBertForQuestionAnswering
from llm_jp_modernbert.inference.question_answering import answer
from llm_jp_modernbert.training.finetuning.head_task import ModelInput, Prediction
from llm_jp_modernbert.training.finetuning.qa import Question, QuestionAnswering

CONTEXT = "今日のご飯はカレーである。明日の朝は早く起きて、駅まで歩いて行きます。吾輩は猫である。"


def example(answers: tuple[str, ...] = ()) -> Question:
    return Question("吾輩は何か。", CONTEXT, answers, CONTEXT.index(answers[0]) if answers else 0)


@pytest.mark.parametrize("length", [40, 512])
def test_unanswerable_questions_are_learned_at_the_first_token(modernbert: Path, length: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    rows = QuestionAnswering(stride=8).encode(tokenizer, [example(), example(("猫",))], length)
    assert (len(rows) > 2) == (length == 40)
    positions = [(row.inputs["start_positions"], row.inputs["end_positions"]) for row in rows if row.example == 0]
    assert set(positions) == {(0, 0)}
    assert any(row.inputs["start_positions"] for row in rows if row.example == 1)


def inputs_of(no_answer: float, best: float, count: int = 1) -> tuple[list[ModelInput], list[np.ndarray]]:
    """`count` windows in which "no answer" and the span 猫 have these scores; the first window has the lowest."""
    offsets = (None, (0, 1), (1, 2))
    logits = [np.array([[no_answer + 9 * n, 0], [best, 0], [-9, -9]]) for n in range(count)]
    return [ModelInput({}, 0, offsets=offsets)] * count, logits


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize(
    ("threshold", "no_answer", "predicted"),
    [(None, 5.0, "猫"), (0.0, 1.0, "猫"), (0.0, 3.0, ""), (0.0, 2.0, "猫"), (2.0, 3.0, "猫"), (-2.0, 1.0, "")],
)
def test_lowest_no_answer_of_all_windows_must_exceed_the_threshold(
    threshold: float | None, no_answer: float, predicted: str, windows: int
) -> None:
    rows, logits = inputs_of(no_answer, 2.0, windows)
    task = QuestionAnswering(no_answer_threshold=threshold)
    (prediction,) = task.predict(rows, logits, [Question("", "猫だ", (), 0)])
    assert prediction.value == predicted
    # The spans are 猫, 猫だ and だ.
    scores = {"猫": 2.0, "猫だ": -7.0, "だ": -18.0}
    if threshold is not None:
        scores[""] = no_answer - threshold
    total = sum(np.exp(score) for score in scores.values())
    assert prediction.confidence == pytest.approx(np.exp(scores[predicted]) / total)


def squad_2_scores(golds: list[list[str]], predictions: list[str]) -> dict[str, float]:
    """Exact match and F1 by the definition of SQuAD 2.0's evaluation script, with characters."""
    exact, f1 = [], []
    for gold, predicted in zip(golds, predictions, strict=True):
        scores = []
        for answer_text in gold or [""]:
            common = sum(min(predicted.count(one), answer_text.count(one)) for one in set(predicted))
            if not predicted or not answer_text:
                scores.append(float(predicted == answer_text))
            elif not common:
                scores.append(0.0)
            else:
                precision, recall = common / len(predicted), common / len(answer_text)
                scores.append(2 * precision * recall / (precision + recall))
        exact.append(float(predicted in (gold or [""])))
        f1.append(max(scores))
    has, no = ([f1[n] for n, gold in enumerate(golds) if bool(gold) == answerable] for answerable in (True, False))
    return {
        "exact_match": float(np.mean(exact)),
        "f1": float(np.mean(f1)),
        "has_answer_f1": float(np.mean(has)),
        "no_answer_accuracy": float(np.mean(no)),
    }


def test_scores_equal_the_definition_of_squad_2() -> None:
    golds: list[list[str]] = [["猫"], [], [], ["カレー", "カレーである"], ["朝"]]
    predictions = ["猫", "", "猫", "カレー", ""]
    asked = [example(tuple(gold)) for gold in golds]
    scores = QuestionAnswering().scores(asked, predictions)
    assert scores == pytest.approx(squad_2_scores(golds, predictions))
    assert scores["no_answer_accuracy"] == 0.5
    assert [QuestionAnswering().gold(one) for one in asked] == golds
    # Without unanswerable questions, scores are those of SQuAD 1.1.
    assert set(QuestionAnswering().scores(asked[3:], predictions[3:])) == {"exact_match", "f1"}
    assert QuestionAnswering().scores(asked[1:3], predictions[1:3])["has_answer_f1"] is None


def test_threshold_has_the_best_f1() -> None:
    drawn = np.random.default_rng(0)
    for _ in range(3):
        rows, logits, asked = [], [], []
        for number in range(20):
            answerable = drawn.random() < 0.6
            asked.append(Question("", "猫だ", ("猫",) if answerable else (), 0))
            (row,), (values,) = inputs_of(*drawn.normal(size=2) - [answerable, 0])
            rows.append(ModelInput(row.inputs, number, offsets=row.offsets))
            logits.append(values)

        def f1(threshold: float, rows: Any = rows, logits: Any = logits, asked: Any = asked) -> float:
            task = QuestionAnswering(no_answer_threshold=threshold)
            score = task.scores(asked, [one.value for one in task.predict(rows, logits, asked)])["f1"]
            assert score is not None
            return score

        tuned = QuestionAnswering(no_answer_threshold=0.0).tuned(rows, logits, asked)
        assert isinstance(tuned, QuestionAnswering)
        assert tuned.no_answer_threshold is not None
        assert f1(tuned.no_answer_threshold) == pytest.approx(max(map(f1, np.linspace(-6, 6, 61))))
        settings = {"no_answer_threshold": tuned.no_answer_threshold, "longest_answer": tuned.longest_answer}
        assert tuned.decision_settings() == settings


def test_threshold_stays_0_if_that_is_best_or_nothing_is_unanswerable() -> None:
    rows, logits = inputs_of(3.0, 2.0)
    task = QuestionAnswering(no_answer_threshold=0.0)
    assert task.tuned(rows, logits, [Question("", "猫だ", (), 0)]) == task
    assert task.tuned(rows, logits, [Question("", "猫だ", ("猫",), 0)]) == task
    assert QuestionAnswering().tuned(rows, logits, [Question("", "猫だ", (), 0)]) == QuestionAnswering()


def test_errors_are_ordered_by_confidence() -> None:
    task = QuestionAnswering()
    assert task.error(example(), Prediction("", 0.9)) == 0
    assert task.error(example(("猫",)), Prediction("猫", 0.9)) == 0
    assert task.error(example(), Prediction("猫", 0.9)) == 0.9
    assert task.error(example(("猫",)), Prediction("", 0.3)) == 0.3
    # カレー and カレーで: F1 is 6 / 7.
    assert task.error(example(("カレー",)), Prediction("カレーで", 0.7)) == pytest.approx(0.1)


@pytest.mark.parametrize(("threshold", "longest"), [(None, 64), (0.0, 2), (1.5, 10)])
def test_predictions_equal_those_of_answer(modernbert: Path, threshold: float | None, longest: int) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    model = LlmJpModernBertForQuestionAnswering.from_pretrained(modernbert).eval()
    torch.nn.init.normal_(model.classifier.weight, std=0.3)
    task = QuestionAnswering(no_answer_threshold=threshold, longest_answer=longest)
    for key, value in task.decision_settings().items():
        setattr(model.config, key, value)
    asked = [Question(CONTEXT[n : n + 6], CONTEXT[n:] * 3, (), 0) for n in range(12)]
    rows = task.encode(tokenizer, asked, 64)
    logits = []
    with torch.no_grad():
        for row in rows:
            output = model(torch.tensor([row.inputs["input_ids"]]))
            logits.append(torch.stack([output.start_logits[0], output.end_logits[0]], -1).numpy())
    for one, prediction in zip(asked, task.predict(rows, logits, asked), strict=True):
        (found,) = answer(model, tokenizer, one.question, one.context)
        assert (found.text, found.score) == (prediction.value, pytest.approx(prediction.confidence, rel=1e-4))
