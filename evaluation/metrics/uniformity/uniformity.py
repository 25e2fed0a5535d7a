"""Uniformity: how evenly embeddings are distributed on the unit sphere."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
Uniformity of embeddings on the unit sphere: log of the mean of exp(-2 ||f(x) - f(y)||^2) over all pairs of different
texts. Lower is better; 0 when all directions are equal.
"""

_INPUTS = """\
Args:
    predictions: embeddings, (texts, dimensions), two or more; normalised to unit length.
Returns:
    uniformity: the logarithm.
"""

_CITATION = """\
@inproceedings{wang2020understanding,
  title={Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere},
  author={Wang, Tongzhou and Isola, Phillip},
  booktitle={International Conference on Machine Learning},
  year={2020}
}
"""

# Rows of the distance matrix computed at a time.
_ROWS = 1024


def mean_closeness(vectors: Any) -> np.ndarray:
    """Mean of exp(−2‖f(xᵢ) − f(xⱼ)‖²) over the other texts, for each text.

    Args:
        vectors: `(texts, dimensions)`, two or more; normalised to unit length here.

    Returns:
        float64 `(texts,)`.

    Raises:
        ValueError: fewer than two texts, or a vector that is zero or not finite.
    """
    array = np.asarray(vectors, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise ValueError(f"uniformity needs two or more embeddings, not an array of shape {array.shape}.")
    lengths = np.linalg.norm(array, axis=-1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise ValueError("an embedding is zero or not finite, so it has no direction.")
    array = array / lengths
    sums = np.empty(len(array))
    for start in range(0, len(array), _ROWS):
        # On the sphere ‖a − b‖² = 2 − 2 a·b.
        sums[start : start + _ROWS] = np.exp(4 * (array[start : start + _ROWS] @ array.T) - 4).sum(1)
    # Each text's distance to itself adds exp(0) = 1.
    return (sums - 1) / (len(array) - 1)


def uniformity(vectors: Any) -> float:
    """log mean exp(−2‖f(xᵢ) − f(xⱼ)‖²) over i ≠ j; arguments and errors as for `mean_closeness`."""
    return float(np.log(mean_closeness(vectors).mean()))


class Uniformity(evaluate.Metric):
    """Uniformity (Wang and Isola 2020, equation 2 with t = 2)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("float64"))}),
        )

    def _compute(self, predictions: Any) -> dict[str, float]:
        return {"uniformity": uniformity(predictions)}
