"""Alignment: how close the embeddings of related texts are."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
Alignment of embeddings on the unit sphere: the mean of ||f(x) - f(y)||^2 over pairs (x, y) of related texts.
Lower is better; 0 for equal directions, 4 for opposite ones.
"""

_INPUTS = """\
Args:
    predictions: embeddings of the first texts, (pairs, dimensions); normalised to unit length.
    references: embeddings of the second texts.
Returns:
    alignment: the mean squared distance.
"""

_CITATION = """\
@inproceedings{wang2020understanding,
  title={Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere},
  author={Wang, Tongzhou and Isola, Phillip},
  booktitle={International Conference on Machine Learning},
  year={2020}
}
"""


def squared_distances(first: Any, second: Any) -> np.ndarray:
    """‖f(x) − f(y)‖² of each pair.

    Args:
        first: `(pairs, dimensions)`; normalised to unit length here.
        second: the same shape.

    Returns:
        float64 `(pairs,)`, from 0 to 4.

    Raises:
        ValueError: different shapes, no pairs, or a vector that is zero or not finite.
    """
    x, y = _unit(first), _unit(second)
    if x.shape != y.shape:
        raise ValueError(f"pairs of embeddings of shapes {x.shape} and {y.shape} do not match.")
    return np.square(x - y).sum(-1)


def _unit(vectors: Any) -> np.ndarray:
    array = np.asarray(vectors, dtype=np.float64)
    if array.ndim != 2 or not len(array):
        raise ValueError(f"embeddings must be (texts, dimensions), not of shape {array.shape}.")
    lengths = np.linalg.norm(array, axis=-1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise ValueError("an embedding is zero or not finite, so it has no direction.")
    return array / lengths


class Alignment(evaluate.Metric):
    """Alignment (Wang and Isola 2020, equation 1 with α = 2)."""

    def _info(self) -> evaluate.MetricInfo:
        vector = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": vector, "references": vector}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"alignment": float(squared_distances(predictions, references).mean())}
