"""Masked-LM masking that is a pure function of (seed, epoch, sample).

The random number of every token is a hash of its sample's key and its position in the sample, so there is no generator
state to save: resuming, or changing the number of workers or ranks, does not change the masks, and every epoch has
different ones. A whole batch is masked with a few array operations.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

IGNORED = -100
"""The label of a position that is not predicted."""

# The constants of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# Make the choices of positions, of replacements and of random tokens independent.
_KIND, _TOKEN = np.uint64(0xD1B54A32D192ED03), np.uint64(0x8CB92BA72F3D8DD7)


@dataclass(frozen=True)
class Masking:
    """Masks tokens for masked-language-model training.

    Attributes:
        mask_token_id: id of the mask token.
        vocab_size: size of the vocabulary from which random tokens are drawn.
        special_ids: ids that are neither masked nor drawn.
        probability: probability that a token is predicted.
        mask_share: share of the predicted tokens that are replaced by the mask.
        random_share: share of the predicted tokens that are replaced by a random token; the rest is unchanged.
    """

    mask_token_id: int
    vocab_size: int
    special_ids: Collection[int]
    probability: float = 0.3
    mask_share: float = 0.8
    random_share: float = 0.1
    _is_special: npt.NDArray[np.bool_] = field(init=False, repr=False, compare=False)
    _drawn: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.probability <= 1.0:
            raise ValueError(f"the masked-LM probability is {self.probability}; it must be above 0 and at most 1.")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(f"mask_share={self.mask_share} and random_share={self.random_share} must add up to ≤ 1.")
        is_special = np.zeros(self.vocab_size, dtype=np.bool_)
        is_special[list(self.special_ids)] = True
        object.__setattr__(self, "_is_special", is_special)
        object.__setattr__(self, "_drawn", np.flatnonzero(~is_special))

    def __call__(
        self,
        ids: npt.NDArray[np.integer],
        lengths: npt.NDArray[np.integer],
        keys: npt.NDArray[np.uint64],
        units: npt.NDArray[np.integer] | None = None,
        probability: float | None = None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Masks concatenated samples.

        Args:
            ids: `(tokens,)` token ids.
            lengths: `(samples,)` number of tokens of each sample.
            keys: `(samples,)` uint64 keys, see `sample_keys`.
            units: `(tokens,)` index of each token's unit, such as a word, in its sample; a unit is masked as a whole.
                If None, every token is a unit.
            probability: overrides `self.probability`.

        Returns:
            `(tokens,)` int64 input ids, and `(tokens,)` int64 labels: the true id, or -100.
        """
        inputs = ids.astype(np.int64)
        places = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        key = np.repeat(keys, lengths)
        drawn = _hash(key, places if units is None else units)
        chance = self.probability if probability is None else probability
        chosen = np.flatnonzero((_uniform(drawn) < chance) & ~self._is_special[inputs])
        labels = np.full(len(ids), IGNORED, dtype=np.int64)
        labels[chosen] = inputs[chosen]
        kind = _uniform(_mix(drawn[chosen] ^ _KIND))
        inputs[chosen[kind < self.mask_share]] = self.mask_token_id
        random = chosen[(kind >= self.mask_share) & (kind < self.mask_share + self.random_share)]
        which = _hash(key[random] ^ _TOKEN, places[random]) % np.uint64(len(self._drawn))
        inputs[random] = self._drawn[which.astype(np.int64)]
        return inputs, labels


def sample_keys(seed: int, samples: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """Hashes the identity of samples to `(samples,)` uint64 keys.

    Args:
        seed: seed of the run, at least 0.
        samples: `(samples, numbers)` that identify each sample and its epoch.
    """
    keys = np.full(len(samples), _mix(np.array([seed], dtype=np.uint64) + _STEP)[0], dtype=np.uint64)
    for column in samples.T:
        keys = _hash(keys, column)
    return keys


def _hash(keys: npt.NDArray[np.uint64], numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    return _mix(keys + (numbers.astype(np.uint64) + np.uint64(1)) * _STEP)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


def _uniform(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Maps hashes to [0, 1)."""
    return (values >> np.uint64(11)).astype(np.float64) * 2.0**-53
