"""The GPU benchmark's cases, run on a CPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.cases import encoder, gpu
from benchmarks.cases.training_step import PEER, SPARSE
from benchmarks.measure import OURS, measure
from benchmarks.models import Models
from llm_jp_modernbert.modeling.flops import forward_flops


@pytest.fixture(scope="module")
def models() -> Models:
    # Few tokens: without instructions for bfloat16, a large vocabulary takes minutes.
    return Models("nano", 1000, device="cpu")


def test_random_documents_have_the_requested_tokens_and_maximum_length() -> None:
    for seed in range(5):
        batch = gpu.random_documents(1_000, 5_000, 256, seed)
        assert sum(map(len, batch.ids)) == sum(map(len, batch.labels)) == 5_000
        assert max(map(len, batch.ids)) <= 256
        predicted = torch.cat(batch.labels) != -100
        assert predicted.float().mean() == pytest.approx(0.3, abs=0.03)
        assert torch.equal(torch.cat(batch.labels)[predicted], torch.cat(batch.ids)[predicted])


def test_all_candidates_train_on_the_same_tokens(models: Models) -> None:
    case = gpu.packed_training(models, 64, 500, 256, compiled=False)
    assert case.settings["tokens"] == 500
    measurement = measure(case, turns=1)
    assert set(measurement.rates) == {PEER, SPARSE, OURS}
    assert all(rate > 0 for rates in measurement.rates.values() for rate in rates)


def test_operations_per_token_are_those_of_the_encoder(models: Models) -> None:
    measurement = measure(encoder.one_length(models, "bfloat16", 2, 64, compiled=False), turns=1)
    assert set(measurement.rates) == {encoder.PEER, OURS}
    assert measurement.operations[OURS] == forward_flops(models.config, [64, 64], 0) / 128
