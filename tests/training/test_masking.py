"""Masking has the right distribution and is reproducible."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llm_jp_modernbert.training.data.masking import IGNORED, Masking, sample_keys

SPECIAL = {0, 1, 2, 3, 4, 5, 6, 7}
VOCABULARY = 1000
TOKENS = 200_000


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    ids = np.random.default_rng(0).integers(8, VOCABULARY, TOKENS)
    ids[::100] = 5
    ids[99::100] = 6
    return ids


def key(seed: int, epoch: int, sample: int) -> np.ndarray:
    return sample_keys(seed, np.array([[epoch, sample]]))


def mask(masking: Masking, ids: np.ndarray, seed: int, epoch: int, sample: int) -> tuple[np.ndarray, np.ndarray]:
    return masking(ids, np.array([len(ids)]), key(seed, epoch, sample))


def within(count: int, trials: int, probability: float) -> bool:
    """Five standard deviations of the binomial distribution."""
    return abs(count - trials * probability) < 5 * math.sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize("probability", [0.15, 0.3])
def test_shares_of_masked_random_and_kept_tokens(ids: np.ndarray, probability: float) -> None:
    masking = Masking(3, VOCABULARY, SPECIAL, probability)
    inputs, labels = mask(masking, ids, seed=1, epoch=2, sample=3)
    chosen = labels != IGNORED
    ordinary = ~np.isin(ids, list(SPECIAL))
    assert not chosen[~ordinary].any()
    assert within(int(chosen.sum()), int(ordinary.sum()), probability)
    assert (labels[chosen] == ids[chosen]).all()
    assert (inputs[~chosen] == ids[~chosen]).all()
    masked, kept = inputs[chosen] == 3, inputs[chosen] == ids[chosen]
    count = int(chosen.sum())
    assert within(int(masked.sum()), count, 0.8)
    # A random token may equal the original one.
    assert within(int(kept.sum()), count, 0.1 + 0.1 / (VOCABULARY - len(SPECIAL)))
    random = inputs[chosen][~masked & ~kept]
    assert not np.isin(random, list(SPECIAL)).any()
    # Uniform: the mean is within five standard errors.
    middle, deviation = (8 + VOCABULARY - 1) / 2, (VOCABULARY - 8) / math.sqrt(12)
    assert abs(random.mean() - middle) < 5 * deviation / math.sqrt(len(random))


def test_positions_are_masked_independently(ids: np.ndarray) -> None:
    _, labels = mask(Masking(3, VOCABULARY, SPECIAL), ids, 0, 0, 0)
    chosen = (labels != IGNORED)[~np.isin(ids, list(SPECIAL))]
    both = int((chosen[1:] & chosen[:-1]).sum())
    assert within(both, len(chosen) - 1, 0.09)


def test_masks_are_a_function_of_seed_epoch_and_sample(ids: np.ndarray) -> None:
    part = ids[:500]
    draws = {
        numbers: mask(Masking(3, VOCABULARY, SPECIAL), part, *numbers)[0].tobytes()
        for numbers in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (2**40, 0, 0)]
    }
    assert len(set(draws.values())) == len(draws)
    again = Masking(3, VOCABULARY, SPECIAL)
    mask(again, ids, 9, 9, 9)
    assert all(mask(again, part, *numbers)[0].tobytes() == drawn for numbers, drawn in draws.items())


def test_masks_do_not_depend_on_the_rest_of_the_batch(ids: np.ndarray) -> None:
    masking = Masking(3, VOCABULARY, SPECIAL)
    lengths = np.array([300, 1, 500, 99])
    keys = sample_keys(7, np.array([[0, 4], [0, 5], [1, 4], [0, 9]]))
    together = masking(ids[: lengths.sum()], lengths, keys)
    ends = np.cumsum(lengths)
    for index, (begin, end) in enumerate(zip(ends - lengths, ends, strict=True)):
        alone = masking(ids[begin:end], lengths[index : index + 1], keys[index : index + 1])
        for single, batch in zip(alone, together, strict=True):
            assert (single == batch[begin:end]).all()


def test_units_are_masked_as_a_whole(ids: np.ndarray) -> None:
    part = ids[(ids > 7)][:30_000]
    words = np.repeat(np.arange(len(part) // 3), 3)
    masking = Masking(3, VOCABULARY, SPECIAL, mask_share=1.0, random_share=0.0)
    _, labels = masking(part, np.array([len(part)]), key(0, 0, 0), words)
    chosen = (labels != IGNORED).reshape(-1, 3)
    assert (chosen.all(1) == chosen.any(1)).all()
    assert within(int(chosen.all(1).sum()), len(chosen), 0.3)


def test_lower_probability_masks_a_subset(ids: np.ndarray) -> None:
    masking, lengths = Masking(3, VOCABULARY, SPECIAL), np.array([len(ids)])
    usual, fewer = (masking(ids, lengths, key(0, 0, 0), probability=p)[1] != IGNORED for p in (None, 0.15))
    assert not (fewer & ~usual).any()
    assert within(int(fewer.sum()), int((ids > 7).sum()), 0.15)


def test_input_is_not_modified(ids: np.ndarray) -> None:
    before = ids.copy()
    mask(Masking(3, VOCABULARY, SPECIAL), ids, 0, 0, 0)
    assert (ids == before).all()


@pytest.mark.parametrize("settings", [{"probability": 0.0}, {"probability": 1.5}, {"mask_share": 0.95}])
def test_invalid_settings_are_errors(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Masking(3, VOCABULARY, SPECIAL, **settings)
