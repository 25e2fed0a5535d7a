"""Costs of reading a corpus are multiplied correctly."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.cases.balance import slowest_rank
from benchmarks.cases.corpora import UnitCosts, diversity, loads, shuffled_diversity
from benchmarks.models import DATA_VARIABLE


def test_load_of_a_data_process() -> None:
    """By hand: a process packs 100 of the 400 tokens of a GPU and, without an index, reads all others of 10 GPUs."""
    costs = UnitCosts(
        characters_per_token=2.0,
        tokenizing=1.0,
        reading=10_000.0,
        packing=1000.0,
        seconds_per_jump=0.5,
        index_bytes=200.0,
    )
    without, with_index = loads(costs, gpus=10, tokens_per_second=400.0, workers=4, block_characters=1000)
    assert without == pytest.approx(100 / 1000 + (4000 - 100) / 10_000)
    # 200 characters per second are a fifth of a block.
    assert with_index == pytest.approx(100 / 1000 + 0.5 / 5)
    assert loads(costs, 1000, 400.0, 4, 1000)[1] == with_index


def test_shuffled_steps_have_the_differences_of_random_draws() -> None:
    """The mean absolute deviation of a binomial share is about sqrt(2 p (1 - p) / (pi n))."""
    shares = (0.5, 0.2, 0.1, 0.05, 0.05, 0.03, 0.03, 0.02, 0.01, 0.01)
    shuffled = shuffled_diversity()
    deviations = [math.sqrt(2 * share * (1 - share) / math.pi / shuffled.documents) for share in shares]
    assert shuffled.difference == pytest.approx(sum(deviations) / 2, rel=0.03)
    assert shuffled.files == pytest.approx(1000 * (1 - 0.999**shuffled.documents), rel=0.03)


def test_more_files_at_a_time_make_steps_more_like_the_corpus(modernbert: Path) -> None:
    few, many = (diversity(AutoTokenizer.from_pretrained(modernbert), number, seeds=4) for number in (8, 64))
    assert (few.files, many.files) == (8, 64)
    assert few.sources < many.sources <= 10
    assert few.difference > many.difference > shuffled_diversity().difference


def test_balance_makes_the_slowest_rank_faster() -> None:
    random, balanced = slowest_rank(32, block_tokens=1_000_000)
    assert random.pairs > 1.2
    assert 1 <= balanced.pairs < 1 + (random.pairs - 1) / 2
    # Most operations are the same for all rows.
    assert 1 <= balanced.operations < 1 + (balanced.pairs - 1) / 2


@pytest.mark.slow
@pytest.mark.skipif(DATA_VARIABLE not in os.environ, reason=f"needs {DATA_VARIABLE}")
def test_costs_are_measured_on_real_texts() -> None:
    result = CliRunner().invoke(app, ["corpora"])
    assert result.exit_code == 0, result.output
    assert "1,024" in result.output
