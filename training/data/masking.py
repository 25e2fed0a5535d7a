"""Masked-LM masking whose draw depends on nothing but (seed, epoch, sample).

Every token's draw is a hash of its sample's key and its place in the sample, so that there is no generator whose
state would have to be carried along: a run that is resumed, or spread over another number of workers or ranks, sees
the masks that it would have seen, and the next epoch sees others. A whole batch is masked by a few array operations.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

IGNORED = -100
"""The label of a position that is not to be predicted."""

# The constants of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# Keep the draws of which tokens, of what becomes of them, and of random tokens apart.
_KIND, _TOKEN = np.uint64(0xD1B54A32D192ED03), np.uint64(0x8CB92BA72F3D8DD7)


@dataclass(frozen=True)
class Masking:
    """What is masked, and by what.

    Attributes:
        mask_token_id: the mask.
        vocab_size: tokens of the tokenizer; random tokens are drawn from them.
        special_ids: ids that are neither masked nor drawn.
        probability: share of the other tokens that are to be predicted.
        mask_share: of these, the share that the mask replaces.
        random_share: of these, the share that a random token replaces; the rest stays as it is.
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
        """Masks samples that stand side by side.

        Args:
            ids: `(tokens,)`.
            lengths: `(samples,)` tokens of each sample.
            keys: `(samples,)` of each sample, see `sample_keys`.
            units: `(tokens,)` number of the unit within its sample, such as a word, that each token belongs to: a unit
                is masked as a whole. By default every token is its own.
            probability: another share of the tokens than usual.

        Returns:
            `(tokens,)` int64 ids for the model, and `(tokens,)` int64 labels: the true id, or -100.
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
    """Keys of samples: equal for equal numbers, and otherwise as if drawn at random.

    Args:
        seed: seed of the run, from 0.
        samples: `(samples, numbers)` that say which sample of which epoch each one is.
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
    """From 0 up to, not including, 1."""
    return (values >> np.uint64(11)).astype(np.float64) * 2.0**-53
