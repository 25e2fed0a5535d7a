"""Masked-LM masking whose draw depends on nothing but (seed, epoch, sample).

So a run that is resumed, or spread over another number of workers, sees the masks that it would have seen, and the
next epoch sees others.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

IGNORED = -100
"""The label of a position that is not to be predicted."""

# Keeps these draws apart from others of the same seed and epoch, such as that of the order.
_MASKS = 2


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
        self, ids: npt.NDArray[np.integer], seed: int, epoch: int, sample: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Masks one sample.

        Args:
            ids: `(tokens,)`.
            seed: seed of the run, from 0.
            epoch: from 0.
            sample: index of the sample in the corpus.

        Returns:
            `(tokens,)` int64 ids for the model, and `(tokens,)` int64 labels: the true id, or -100.
        """
        draw = np.random.default_rng((_MASKS, seed, epoch, sample))
        inputs = ids.astype(np.int64)
        chosen = np.flatnonzero((draw.random(len(ids)) < self.probability) & ~self._is_special[inputs])
        labels = np.full(len(ids), IGNORED, dtype=np.int64)
        labels[chosen] = inputs[chosen]
        kind = draw.random(len(chosen))
        inputs[chosen[kind < self.mask_share]] = self.mask_token_id
        random = chosen[(kind >= self.mask_share) & (kind < self.mask_share + self.random_share)]
        inputs[random] = self._drawn[draw.integers(len(self._drawn), size=len(random))]
        return inputs, labels
