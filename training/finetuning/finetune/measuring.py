"""Measures predictions: metrics with confidence intervals and baselines, scores by class, and the worst errors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from typing_extensions import TypedDict

from llm_jp_modernbert.core.intervals import bootstrap

from ..data.dataset import Examples
from ..head_task import HeadTask, ModelInput, Prediction
from ..ner import Ner
from ..qa import QuestionAnswering
from ..text import Classification, MultiLabelClassification, Regression

NONE = "none"
"""Class of an entity without a counterpart in the confusion matrix."""

_ANSWERS = ("label", "entities", "answers", "start")
"""Attributes of examples that are not inputs."""

_MOST_CONFUSED = 100
"""Classes up to which a confusion matrix is kept: it has their number squared."""

_SKEWED = 5
"""Ratio of label counts from which labels are weighted automatically."""

Statistic = Callable[..., np.ndarray]


def classes(task: HeadTask[Any]) -> tuple[str, ...]:
    """Names of the classes that are scored separately: labels, choices or entity types."""
    if isinstance(task, Ner):
        return tuple(dict.fromkeys(tag[2:] for tag in task.labels if tag != "O"))
    return task.labels


def simplest_guess(task: HeadTask[Any], examples: Sequence[Any]) -> tuple[Any, str]:
    """The best constant prediction according to some examples, and what it is."""
    if isinstance(task, Regression):
        return float(np.mean([example.label for example in examples])), "the mean"
    if isinstance(task, Ner):
        return [], "no entities"
    if isinstance(task, QuestionAnswering):
        answers = Counter(task.right(example) for example in examples)
        return answers.most_common(1)[0][0], "the most frequent answer"
    gold = [task.gold(example) for example in examples]
    most_frequent = Counter(tuple(value) if isinstance(value, list) else value for value in gold).most_common(1)[0][0]
    is_list = isinstance(most_frequent, tuple)
    return list(most_frequent) if is_list else most_frequent, f"the most frequent label{'s' if is_list else ''}"


def scores(
    task: HeadTask[Any], inputs: Sequence[ModelInput], logits: Sequence[np.ndarray], examples: Sequence[Any]
) -> dict[str, float | None]:
    """Metrics of a model; undefined if it computes numbers that are not finite."""
    predictions = [prediction.value for prediction in task.predict(inputs, logits, examples)]
    finite = all(np.isfinite(values).all() for values in logits)
    return {name: value if finite else None for name, value in task.scores(examples, predictions).items()}


def intervals(
    task: HeadTask[Any], examples: Sequence[Any], predictions: Sequence[Any], seed: int
) -> dict[str, tuple[float | None, float | None]]:
    """95 % confidence intervals of the metrics, by resampling examples.

    Args:
        task: the type of task.
        examples: the examples.
        predictions: `Prediction.value` of each example.
        seed: random seed.
    """
    if isinstance(task, Regression):
        pair = (np.array([example.label for example in examples]), np.array(predictions, float))
        if len(set(pair[0])) < 2 or len(set(pair[1])) < 2:
            return {}
        return {name: bootstrap(pair, statistic, seed) for name, statistic in CORRELATIONS.items()}
    if isinstance(task, QuestionAnswering):
        single = [task.scores([example], [value]) for example, value in zip(examples, predictions, strict=True)]
        values = {name: np.array([score[name] for score in single], float) for name in ("exact_match", "f1")}
        answerable = np.array([bool(example.answers) for example in examples])
        if not answerable.all():
            values["has_answer_f1"] = values["f1"][answerable]
            values["no_answer_accuracy"] = values["f1"][~answerable]
        return {name: bootstrap((value,), np.mean, seed) for name, value in values.items() if len(value)}
    counts = class_counts(task, examples, predictions)
    exact = (counts.max(-1) == counts.min(-1)).all(-1)
    flat = counts.reshape(len(counts), -1).astype(np.float32)

    def statistic_of(name: str) -> Statistic:
        def statistic(rows: np.ndarray, axis: int) -> np.ndarray:
            times = np.apply_along_axis(np.bincount, axis, rows, minlength=len(flat)).astype(np.float32)
            sums = (times @ flat).reshape(*rows.shape[:-1], *counts.shape[1:])
            return _metrics(sums, len(flat), times @ exact)[name]

        return statistic

    known = _metrics(counts.sum(0), len(counts), exact.sum())
    names = [name for name in task.scores(examples, predictions) if name in known]
    return {name: bootstrap((np.arange(len(flat)),), statistic_of(name), seed) for name in names}


def class_counts(task: HeadTask[Any], examples: Sequence[Any], predictions: Sequence[Any]) -> np.ndarray:
    """`(examples, classes, 3)`: correct, predicted and true occurrences of each class in each example."""
    number = {name: index for index, name in enumerate(classes(task))}
    counts = np.zeros((len(examples), len(number), 3), np.int32)
    if not number:
        return counts
    for row, example, prediction in zip(counts, examples, predictions, strict=True):
        gold, predicted = _items(task, task.gold(example)), _items(task, prediction)
        for column, items in enumerate((gold & predicted, predicted, gold)):
            for _, name in items:
                row[number[name], column] += 1
    return counts


def _items(task: HeadTask[Any], value: Any) -> set[tuple[Any, str]]:
    """The classes of an answer, each with its place."""
    if isinstance(task, Ner):
        return {((begin, end), kind) for begin, end, kind in value}
    return {(None, label) for label in (value if isinstance(value, list) else [value])}


def _metrics(sums: np.ndarray, examples: int, exact: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of `(…, classes, 3)` sums of `class_counts`."""
    correct, predicted, gold = np.moveaxis(sums.astype(np.float64), -1, 0)
    all_correct, all_predicted, all_gold = correct.sum(-1), predicted.sum(-1), gold.sum(-1)
    f1 = _ratio(2 * all_correct, all_predicted + all_gold)
    # Matthews' correlation of several classes (Gorodkin 2004).
    covariance = all_correct * examples - (predicted * gold).sum(-1)
    spread = (examples**2 - (predicted**2).sum(-1)) * (examples**2 - (gold**2).sum(-1))
    return {
        "accuracy": all_correct / examples,
        "macro_f1": _ratio(2 * correct, predicted + gold).mean(-1),
        "micro_f1": f1,
        "f1": f1,
        "precision": _ratio(all_correct, all_predicted),
        "recall": _ratio(all_correct, all_gold),
        "mcc": _ratio(covariance, np.sqrt(np.maximum(spread, 0.0))),
        "exact_match": exact / examples,
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A quotient that is 0 where the denominator is 0."""
    quotient: np.ndarray = np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), 0.0)
    return quotient


def _pearson(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    first, second = (values - values.mean(axis, keepdims=True) for values in (first, second))
    return _ratio((first * second).sum(axis), np.sqrt((first**2).sum(axis) * (second**2).sum(axis)))


def _spearman(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    from scipy.stats import rankdata

    return _pearson(rankdata(first, axis=axis), rankdata(second, axis=axis), axis)


def _r2(gold: np.ndarray, predicted: np.ndarray, axis: int) -> np.ndarray:
    spread = ((gold - gold.mean(axis, keepdims=True)) ** 2).sum(axis)
    return 1 - _ratio(((gold - predicted) ** 2).sum(axis), spread)


CORRELATIONS: dict[str, Statistic] = {"pearson": _pearson, "spearman": _spearman, "r2": _r2}
"""Agreement of gold and predicted numbers, for `core.intervals.bootstrap`."""


class ClassScores(TypedDict):
    """Scores of a class, from 0 to 1."""

    precision: float
    recall: float
    f1: float


def class_scores(counts: np.ndarray) -> list[ClassScores]:
    """Precision, recall and F1 of each class from its `class_counts`."""
    correct, predicted, gold = np.moveaxis(counts.sum(0).astype(np.float64), -1, 0)
    columns = zip(
        _ratio(correct, predicted), _ratio(correct, gold), _ratio(2 * correct, predicted + gold), strict=True
    )
    return [
        {"precision": float(precision), "recall": float(recall), "f1": float(f1)} for precision, recall, f1 in columns
    ]


def label_counts(task: HeadTask[Any], examples: Sequence[Any]) -> Counter[str]:
    """Occurrences of each class in the correct answers."""
    gold = class_counts(task, examples, [task.gold(example) for example in examples])[..., 2].sum(0)
    return Counter(dict(zip(classes(task), gold.tolist(), strict=True)))


def class_weights(
    task: HeadTask[Any], examples: Sequence[Any], choice: Literal["auto", "balanced", "none"]
) -> tuple[float, ...]:
    """Weights of the labels in the loss; empty for equal weights.

    With one label per text, they are those of scikit-learn's `class_weight="balanced"`. With several, a label that
    texts have counts as much as its absence in all other texts.

    Args:
        task: type of task; other tasks than classification have no weights.
        examples: training examples.
        choice: `auto` weighs labels if one is five times as frequent as another.
    """
    if choice == "none" or not isinstance(task, (Classification, MultiLabelClassification)):
        return ()
    counted = label_counts(task, examples)
    counts = np.array([counted[label] for label in task.labels], float)
    if choice == "auto" and counts.max() < _SKEWED * counts.min():
        return ()
    if isinstance(task, MultiLabelClassification):
        return tuple(((len(examples) - counts) / np.maximum(counts, 1)).tolist())
    return tuple((len(examples) / (len(counts) * np.maximum(counts, 1))).tolist())


def confusion(task: HeadTask[Any], examples: Sequence[Any], predictions: Sequence[Any]) -> list[list[int]] | None:
    """`[gold][predicted]` counts in the order of `classes`; None if a text has several labels,
    no class, or there are many.

    Entities with equal spans are compared. The last row and column count entities without a counterpart.
    """
    names = classes(task)
    if len(names) > _MOST_CONFUSED:
        return None
    pairs: list[tuple[str, str]] = []
    if isinstance(task, Ner):
        names = (*names, NONE)
        for example, prediction in zip(examples, predictions, strict=True):
            gold = {(begin, end): kind for begin, end, kind in example.entities}
            predicted = {(begin, end): kind for begin, end, kind in prediction}
            pairs += [(gold.get(span, NONE), predicted.get(span, NONE)) for span in gold | predicted]
    elif names and not any(isinstance(prediction, list) for prediction in predictions):
        pairs = [(task.gold(example), value) for example, value in zip(examples, predictions, strict=True)]
    else:
        return None
    place = {name: index for index, name in enumerate(names)}
    matrix = [[0] * len(names) for _ in names]
    for true, guess in pairs:
        matrix[place[true]][place[guess]] += 1
    return matrix


def worst_errors(
    task: HeadTask[Any], part: Examples, predictions: Sequence[Prediction], limit: int = 100
) -> list[dict[str, Any]]:
    """The most confidently wrong predictions, worst first, with the input and its place in the data."""
    errors = [task.error(example, prediction) for example, prediction in zip(part.examples, predictions, strict=True)]
    worst = sorted((place for place, error in enumerate(errors) if error > 0), key=lambda place: -errors[place])
    return [
        {
            "place": part.places[place],
            **{name: value for name, value in asdict(part.examples[place]).items() if name not in _ANSWERS},
            "gold": task.gold(part.examples[place]),
            "predicted": predictions[place].value,
            "confidence": None if math.isnan(predictions[place].confidence) else predictions[place].confidence,
        }
        for place in worst[:limit]
    ]
