"""A run's data, its optimizer, its training and its measurement."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from llm_jp_modernbert import LlmJpModernBertConfig, LlmJpModernBertForMaskedLM
from llm_jp_modernbert.training.dataset import PackedDataset, collate
from llm_jp_modernbert.training.masking import IGNORED, Masking
from llm_jp_modernbert.training.optimization import parameter_groups
from llm_jp_modernbert.training.packing import PackedRows, pack
from llm_jp_modernbert.training.schedule import Schedule
from llm_jp_modernbert.training.stage import Stage, run_stage
from llm_jp_modernbert.training.tokenize_corpus import from_documents
from llm_jp_modernbert.training.validation import MaskedValidation, unigram_baseline

VOCABULARY, CLS, SEP = 64, 5, 6


def counting_documents(count: int = 30) -> list[list[int]]:
    """Documents that count upwards: what is masked follows from what is beside it."""
    draw = np.random.default_rng(0)
    return [((np.arange(length) + start) % 56 + 8).tolist() for start, length in draw.integers(20, 90, (count, 2))]


@pytest.fixture
def rows() -> PackedRows:
    return pack(from_documents(counting_documents()), 64, CLS, SEP)


@pytest.fixture
def masking() -> Masking:
    return Masking(3, VOCABULARY, range(8))


def new_model() -> LlmJpModernBertForMaskedLM:
    torch.manual_seed(0)
    return LlmJpModernBertForMaskedLM(
        LlmJpModernBertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=128,
            local_attention=16,
        )
    )


def test_every_epoch_reads_every_row_once_in_another_order(rows: PackedRows, masking: Masking) -> None:
    data = PackedDataset(rows, masking, 3 * len(rows), seed=0)
    true = {row: np.sort(rows.row(row)[0]).tobytes() for row in range(len(rows))}

    def restored(sample: dict[str, np.ndarray]) -> bytes:
        return np.sort(np.where(sample["labels"] == IGNORED, sample["input_ids"], sample["labels"])).tobytes()

    epochs = [[restored(data[e * len(rows) + i]) for i in range(len(rows))] for e in range(3)]
    assert all(Counter(epoch) == Counter(true.values()) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_sample_does_not_depend_on_what_was_read_before(rows: PackedRows, masking: Masking) -> None:
    samples = 2 * len(rows) + 3
    through = [sample["input_ids"].tobytes() for sample in (PackedDataset(rows, masking, samples, 4))]
    resumed = PackedDataset(rows, masking, samples, 4)
    assert [resumed[i]["input_ids"].tobytes() for i in reversed(range(samples))] == through[::-1]
    assert through[0] != PackedDataset(rows, masking, samples, 5)[0]["input_ids"].tobytes()


def test_collate_puts_documents_side_by_side(rows: PackedRows, masking: Masking) -> None:
    data = PackedDataset(rows, masking, 4, seed=0)
    samples = [data[i] for i in range(4)]
    batch = collate(samples)
    total = sum(len(sample["input_ids"]) for sample in samples)
    assert batch["input_ids"].shape == batch["labels"].shape == (1, total)
    starts = batch["cu_seqlens"].long()
    assert (starts[0], starts[-1], batch["cu_seqlens"].dtype) == (0, total, torch.int32)
    assert (batch["input_ids"][0, starts[:-1]] == CLS).all()
    assert (batch["input_ids"][0, starts[1:] - 1] == SEP).all()
    assert (batch["input_ids"] == CLS).sum() == len(starts) - 1
    assert (batch["labels"][(batch["input_ids"] == CLS) | (batch["input_ids"] == SEP)] == IGNORED).all()


def test_norms_and_biases_do_not_decay() -> None:
    model = new_model()
    decayed, kept = parameter_groups(model, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    expected = {name for name in names.values() if "norm" in name or name.endswith("bias")}
    assert {names[id(parameter)] for parameter in kept["params"]} == expected


def test_training_learns_and_is_the_same_again(rows: PackedRows, masking: Masking) -> None:
    stage = Stage("counting", 64, 512, steps=60, learning_rate=1e-2)
    held_out = from_documents([((np.arange(60) + start) % 56 + 8).tolist() for start in (1, 13, 40)])
    validation = MaskedValidation(held_out, masking, CLS, SEP)
    weights, results = [], []
    for _ in range(2):
        model = new_model()
        before = validation.measure(model, 64)
        result = run_stage(model, rows, masking, stage, seed=1, log_every=5)
        after = validation.measure(model, 64)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        results.append((result.losses, after))
    assert torch.equal(*weights)
    assert results[0] == results[1]
    baseline, _ = unigram_baseline(rows.corpus.ids, validation.targets)
    assert before.accuracy < 0.2
    assert after.accuracy > baseline + 0.15
    assert after.loss < before.loss
    assert result.losses[-1][1] < result.losses[0][1] - 0.5
    assert result.epochs == pytest.approx(60 * 8 / len(rows))
    assert result.as_dict()["steps"] == 60


def test_time_ends_training_at_the_lowest_learning_rate(rows: PackedRows, masking: Masking) -> None:
    stage = Stage("counting", 64, 512, steps=100_000, learning_rate=1e-3, seconds=1.0)
    result = run_stage(new_model(), rows, masking, stage, seed=0, log_every=1)
    assert 0 < result.steps < 1000
    assert 1.0 <= result.seconds < 10
    assert result.tokens <= result.steps * 512


@pytest.mark.parametrize("steps", [1, 10, 97])
def test_schedule_by_steps(steps: int) -> None:
    schedule = Schedule(steps, warmup_share=0.1, final_share=0.2)
    factors = [schedule.factor(step) for step in range(steps)]
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert peak <= 0.1 * steps
    assert 0 < factors[0] <= max(factors) <= 1
    # The last step is taken at the end of the cosine.
    assert factors[-1] == pytest.approx(0.2)
    assert schedule.progress(steps) == 1.0


def test_no_steps_are_refused(rows: PackedRows, masking: Masking) -> None:
    with pytest.raises(ValueError, match="0 steps"):
        run_stage(new_model(), rows, masking, Stage("none", 64, 512, 0, 1e-3), seed=0)


def test_masks_stay_the_same_whatever_the_context(masking: Masking) -> None:
    corpus = from_documents(counting_documents())
    one, other = (MaskedValidation(corpus, masking, CLS, SEP) for _ in range(2))
    assert (one.labels == other.labels).all()
    model = new_model()
    counts = {length: one.measure(model, length).masked_tokens for length in (8, 32, 128)}
    assert set(counts.values()) == {len(one.targets)}
    masked = one.labels != IGNORED
    assert (one.corpus.ids[masked] == 3).all()
    assert (one.corpus.ids[~masked] == corpus.ids[~masked]).all()


def test_measured_accuracy_is_that_of_a_plain_loop(masking: Masking) -> None:
    corpus = from_documents(counting_documents(5))
    validation = MaskedValidation(corpus, masking, CLS, SEP)
    model = new_model().eval()
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


def test_unigram_baseline_counts() -> None:
    draw = np.random.default_rng(0)
    training, targets = draw.zipf(1.5, 500) % 50, draw.zipf(1.5, 200) % 50
    token, _ = Counter(training.tolist()).most_common(1)[0]
    assert unigram_baseline(training, targets) == (Counter(targets.tolist())[token] / 200, token)
