"""Held-out accuracy equals that of a plain loop, with fixed masks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_models import tiny_config

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.training.data.corpus import TokenizedCorpus, from_documents
from llm_jp_modernbert.training.data.masking import IGNORED, Masking
from llm_jp_modernbert.training.data.validation import MaskedValidation, unigram_baseline

VOCABULARY, CLS, SEP = 64, 5, 6


def counting_documents(count: int = 30) -> TokenizedCorpus:
    """Documents that count upwards, so that masked tokens can be inferred from their neighbours."""
    draw = np.random.default_rng(0)
    return from_documents(
        (np.arange(length) + start) % 56 + 8 for start, length in draw.integers(20, 90, (count, 2)).tolist()
    )


@pytest.fixture
def masking() -> Masking:
    return Masking(3, VOCABULARY, range(8))


@pytest.fixture
def model() -> LlmJpModernBertForMaskedLM:
    torch.manual_seed(0)
    return LlmJpModernBertForMaskedLM(tiny_config(vocab_size=VOCABULARY)).eval()


def test_masks_do_not_depend_on_the_context_length(masking: Masking, model: LlmJpModernBertForMaskedLM) -> None:
    corpus = counting_documents()
    first, second = (MaskedValidation(corpus, masking, CLS, SEP) for _ in range(2))
    assert (first.labels == second.labels).all()
    counts = {length: first.measure(model, length).masked_tokens for length in (8, 32, 128)}
    assert set(counts.values()) == {len(first.targets)}
    masked = first.labels != IGNORED
    assert (first.corpus.ids[masked] == 3).all()
    assert (first.corpus.ids[~masked] == corpus.ids[~masked]).all()


def test_accuracy_and_loss_equal_a_plain_loop(masking: Masking, model: LlmJpModernBertForMaskedLM) -> None:
    corpus = counting_documents(5)
    validation = MaskedValidation(corpus, masking, CLS, SEP)
    right, losses = 0, []
    for index in range(len(corpus)):
        ids = [CLS, *validation.corpus.document(index).tolist(), SEP]
        labels = validation.labels[corpus.offsets[index] : corpus.offsets[index + 1]]
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([ids])).logits[0, 1:-1].log_softmax(-1)
        for position in np.flatnonzero(labels != IGNORED):
            right += int(scores[position].argmax()) == labels[position]
            losses.append(-float(scores[position, labels[position]]))
    measured = validation.measure(model, 128)
    assert measured.accuracy == right / len(losses)
    assert measured.loss == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("ranks", [2, 3, 50])
def test_sum_over_ranks_equals_one_process(masking: Masking, model: LlmJpModernBertForMaskedLM, ranks: int) -> None:
    validation = MaskedValidation(counting_documents(200), masking, CLS, SEP)
    alone = validation.measure(model, 128)
    parts: list[list[float]] = []

    def collect(values: list[float]) -> list[float]:
        parts.append(values)
        return [sum(column) for column in zip(*parts, strict=True)]

    for rank in range(ranks - 1):
        # A rank without batches divides by zero, because only the last one sees all sums.
        try:
            validation.measure(model, 128, rank, ranks, collect)
        except ZeroDivisionError:
            continue
    together = validation.measure(model, 128, ranks - 1, ranks, collect)
    assert together.masked_tokens == alone.masked_tokens
    assert together.accuracy == alone.accuracy
    assert together.loss == pytest.approx(alone.loss)


def test_baselines_equal_counts() -> None:
    draw = np.random.default_rng(0)
    training, targets = draw.zipf(1.5, 500) % 50, draw.zipf(1.5, 200) % 50
    token, _ = Counter(training.tolist()).most_common(1)[0]
    assert unigram_baseline(training, targets) == (Counter(targets.tolist())[token] / 200, token)
    validation = MaskedValidation(counting_documents(), Masking(3, VOCABULARY, range(8)), CLS, SEP)
    _, count = Counter(validation.targets.tolist()).most_common(1)[0]
    assert validation.baseline_accuracy == count / len(validation.targets)
