"""Confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_RESAMPLES = 2000
# Values that are resampled at a time; bounds the memory.
_BATCH = 10_000_000


def bootstrap(
    samples: Sequence[np.ndarray], statistic: Callable[..., Any], seed: int
) -> tuple[float | None, float | None]:
    """95 % confidence interval of a statistic by the percentile bootstrap.

    Args:
        samples: arrays `(examples,)` of one length, resampled together.
        statistic: called with the samples and `axis`.
        seed: random seed.

    Returns:
        Lower and upper end; None for a single example.
    """
    if len(samples[0]) < 2:
        return None, None
    from scipy.stats import bootstrap as scipy_bootstrap

    interval = scipy_bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=max(1, _BATCH // len(samples[0])),
        method="percentile",
        rng=seed,
    ).confidence_interval
    return float(interval.low), float(interval.high)
