"""Metrics missing in other libraries, one folder each, in the format of the library `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluate import EvaluationModule


def load(name: str) -> EvaluationModule:
    """Loads a metric like `evaluate.load`, from any working directory.

    Args:
        name: `alignment`, `uniformity` or `pseudo_perplexity`.

    Example:
        >>> load("alignment").compute(predictions=[[1.0, 0.0]], references=[[0.0, 1.0]])
        {'alignment': 2.0}
    """
    import evaluate

    return evaluate.load(str(Path(__file__).parent / name))
