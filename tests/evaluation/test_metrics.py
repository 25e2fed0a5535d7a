"""Metrics loaded by the library evaluate, against their definitions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from llm_jp_modernbert.core.intervals import bootstrap
from llm_jp_modernbert.evaluation import metrics
from llm_jp_modernbert.evaluation.metrics.pseudo_perplexity.pseudo_perplexity import pseudo_perplexity

DRAWN = np.random.default_rng(0)
FIRST, SECOND = DRAWN.normal(size=(2, 7, 5))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(sum(value * value for value in vector))


def test_alignment_equals_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # From any folder, not only from a checkout.
    monkeypatch.chdir(tmp_path)
    results = metrics.load("alignment").compute(predictions=FIRST, references=SECOND)
    distances = [sum((_unit(a) - _unit(b)) ** 2) for a, b in zip(FIRST, SECOND, strict=True)]
    assert results == {"alignment": pytest.approx(sum(distances) / 7, abs=1e-9)}


def test_uniformity_equals_loop() -> None:
    results = metrics.load("uniformity").compute(predictions=FIRST)
    potentials = [
        math.exp(-2 * sum((_unit(a) - _unit(b)) ** 2))
        for i, a in enumerate(FIRST)
        for j, b in enumerate(FIRST)
        if i != j
    ]
    assert results == {"uniformity": pytest.approx(math.log(sum(potentials) / len(potentials)), abs=1e-9)}


def test_pseudo_perplexity_equals_hand_computation() -> None:
    metric = metrics.load("pseudo_perplexity")
    results = metric.compute(predictions=[[1.0, 2.0], [3.0]], references=[[1.0, 3.0], [2.0]])
    assert results["pseudo_perplexity"] == pytest.approx(math.exp(6 / 3))
    assert results["pseudo_perplexity_per_character"] == pytest.approx(math.exp(6 / 6))
    assert results["by_document"] == pytest.approx([math.exp(1.5), math.exp(3.0)])


def test_interval_of_two_examples_equals_hand_computation() -> None:
    # A quarter of the resamples contain the first example twice, another quarter the second one twice.
    assert bootstrap((np.array([1.0, 3.0]),), np.mean, 0) == (1.0, 3.0)
    low, high = bootstrap((np.array([2.0, 6.0]), np.array([2.0, 3.0])), pseudo_perplexity, 0)
    assert (low, high) == pytest.approx((math.exp(2 / 2), math.exp(6 / 3)), abs=1e-6)
    assert bootstrap((np.array([1.0]),), np.mean, 0) == (None, None)


def test_interval_of_many_examples_is_close_to_normal() -> None:
    sample = DRAWN.normal(size=400)
    low, high = bootstrap((sample,), np.mean, 0)
    error = 1.96 * sample.std() / 20
    assert (low, high) == pytest.approx((sample.mean() - error, sample.mean() + error), abs=0.15 * error)
