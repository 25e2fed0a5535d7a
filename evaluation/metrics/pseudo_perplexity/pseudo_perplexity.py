"""Pseudo-perplexity of a masked language model, from the cross-entropies of tokens masked one at a time."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
Pseudo-perplexity: exp of the mean cross-entropy of tokens, each masked alone while all others are visible. Normalised
by tokens, and by characters if their number is given, to compare models with different tokenizers. Lower is better.
"""

_INPUTS = """\
Args:
    predictions: for each document, the cross-entropies of its masked tokens, in nats.
    references: for each document, the number of characters of each of these tokens; optional.
Returns:
    pseudo_perplexity: over all tokens of all documents.
    pseudo_perplexity_per_character: the same per character; only with references.
    by_document: the pseudo-perplexity of each document.
"""

_CITATION = """\
@inproceedings{salazar2020masked,
  title={Masked Language Model Scoring},
  author={Salazar, Julian and Liang, Davis and Nguyen, Toan Q. and Kirchhoff, Katrin},
  booktitle={Proceedings of ACL},
  year={2020}
}
"""


def pseudo_perplexity(cross_entropies: Any, counts: Any, axis: int = -1) -> Any:
    """exp(Σ cross-entropies / Σ counts) over documents.

    Args:
        cross_entropies: sum of each document, in nats.
        counts: number of tokens, or of characters, of each document.
        axis: axis of the documents.

    Returns:
        The value, with the remaining axes.
    """
    return np.exp(np.sum(cross_entropies, axis=axis) / np.sum(counts, axis=axis))


class PseudoPerplexity(evaluate.Metric):
    """Pseudo-perplexity (Salazar et al. 2020, equation 2)."""

    def _info(self) -> evaluate.MetricInfo:
        floats = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"predictions": floats, "references": floats}),
                datasets.Features({"predictions": floats}),
            ],
        )

    def _compute(self, predictions: Any, references: Any = None) -> dict[str, Any]:
        if not all(len(document) for document in predictions):
            raise ValueError("a document has no masked token.")
        sums = [float(np.sum(document)) for document in predictions]
        tokens = [len(document) for document in predictions]
        values: dict[str, Any] = {
            "pseudo_perplexity": float(pseudo_perplexity(sums, tokens)),
            "by_document": [float(np.exp(np.mean(document))) for document in predictions],
        }
        if references is not None:
            characters = [float(np.sum(document)) for document in references]
            values["pseudo_perplexity_per_character"] = float(pseudo_perplexity(sums, characters))
        return values
