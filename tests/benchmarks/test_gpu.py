"""The cases of the benchmark on a GPU, computed on a CPU: what they measure, not how fast."""

from __future__ import annotations

import pytest
import torch

from benchmarks.cases import gpu
from benchmarks.cases.training_step import PEER, SPARSE
from benchmarks.measure import COMPILED, OURS, Case, Measured, measure
from benchmarks.models import Models
from llm_jp_modernbert.modeling.flops import forward_flops


@pytest.fixture(scope="module")
def models() -> Models:
    return Models("nano", device="cpu")


def measured(case: Case) -> Measured:
    """All but the compiled model, which would take half a minute."""
    del case.candidates[COMPILED]
    return measure(case, turns=1)


def test_documents_have_all_tokens_and_no_more_than_the_longest() -> None:
    for seed in range(5):
        batch = gpu.documents(5_000, 256, seed)
        assert sum(map(len, batch.ids)) == sum(map(len, batch.labels)) == 5_000
        assert max(map(len, batch.ids)) <= 256
        predicted = torch.cat(batch.labels) != -100
        assert predicted.float().mean() == pytest.approx(0.3, abs=0.03)
        assert torch.equal(torch.cat(batch.labels)[predicted], torch.cat(batch.ids)[predicted])


def test_all_train_on_the_same_tokens(models: Models) -> None:
    case = gpu.training(models, 64, 500, 256)
    assert case.settings["tokens"] == 500
    found = measured(case)
    assert set(found.rates) == {PEER, SPARSE, OURS}
    assert all(rate > 0 for rates in found.rates.values() for rate in rates)


def test_reading_counts_the_operations_of_the_encoder(models: Models) -> None:
    found = measured(gpu.reading(models, 2, 64))
    assert set(found.rates) == {PEER, OURS}
    assert found.operations[OURS] == forward_flops(models.config, [64, 64], 0) / 128


def test_the_largest_budget_ends_where_memory_does() -> None:
    def step(tokens: int) -> None:
        if tokens > 40_000:
            raise torch.cuda.OutOfMemoryError

    assert gpu.largest_budget(step) == 32_768
    assert gpu.largest_budget(step, first=65_536) == 0
    assert gpu.largest_budget(lambda tokens: None, last=100_000) == 65_536
