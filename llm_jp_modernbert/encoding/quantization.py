"""Vectors with components of fewer bits, as `sentence_transformers.util.quantize_embeddings` defines them."""

from __future__ import annotations

import numpy as np

from .options import Precision


def quantize(vectors: np.ndarray, precision: Precision, ranges: np.ndarray | None = None) -> np.ndarray:
    """Quantizes vectors.

    Args:
        vectors: float32 `(texts, dimensions)`.
        precision: `float32`, `float16`; `int8`, 256 equal steps between the minimum and the maximum of a dimension;
            `binary` (int8) or `ubinary` (uint8), the sign of 8 dimensions in a byte, the first in its highest bit.
        ranges: float32 `(2, dimensions)` minima and maxima, for `int8`.

    Returns:
        `(texts, dimensions)`, or `(texts, ⌈dimensions / 8⌉)` if binary.
    """
    if precision in ("float32", "float16"):
        return vectors.astype(precision)
    if precision == "int8":
        if ranges is None:
            raise ValueError("int8 needs the ranges of the dimensions")
        starts = ranges[0]
        steps = (ranges[1] - starts) / 255
        steps = np.where(steps == 0, np.float32(1), steps)
        return (np.clip(np.floor((vectors - starts) / steps), 0, 255) - 128).astype(np.int8)
    bits = np.packbits(vectors > 0, axis=-1)
    return bits if precision == "ubinary" else (bits - 128).astype(np.int8)
