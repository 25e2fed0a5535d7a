"""Alignment and uniformity of embeddings (Wang and Isola 2020), as in SimCSE (Gao et al. 2021).

Paper's protocol: alignment over pairs of passages, uniformity over whole articles. Improved: uniformity over the
passages of the pairs themselves, so that both figures are of the same texts.

Uniformity is the logarithm of U, the mean closeness exp(−2‖f(xᵢ) − f(xⱼ)‖²) of two texts. Texts are drawn anew for its
interval, and what drawing changes is taken to first order (Hoeffding 1948): log U + 2 (mean hᵢ / U − 1), where hᵢ is
the mean closeness of text i to the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..data import readers as datasets
from ..encoders.embeddings import embedder_of
from ..metrics.intervals import bootstrap
from ..report.results import Measurement
from .task import Data, Options, Outcome, Progress, Task

if TYPE_CHECKING:
    from ..encoders.models import EvaluatedModel

# Rows of the matrix of closeness that are held at a time.
_ROWS = 1024


@dataclass(frozen=True)
class AlignmentUniformity(Task):
    """Attributes are the settings.

    Attributes:
        pairs: pairs at most.
        articles: articles at most; 0 to take the pairs' passages.
        pooling: of the embeddings.
    """

    pairs: int = 2000
    articles: int = 0
    pooling: str = "auto"

    name: ClassVar[str] = "alignment-uniformity"

    @classmethod
    def for_options(cls, options: Options) -> AlignmentUniformity:
        """With the protocol's settings."""
        articles = 4000 if options.protocol == "paper" else 0
        most = options.limit
        return cls(options, most or 2000, min(articles, most) if most else articles, options.pooling)

    def load(self) -> Data:
        """Pairs of passages, and behind them the articles, each as a tuple of one."""
        found = datasets.passage_pairs(self.options)
        pairs = datasets.some(found.examples, self.pairs, self.options.seed)
        if not self.articles:
            return Data(found.name, found.revision, found.split, pairs)
        texts = datasets.documents(self.options)
        articles = [(text,) for text in datasets.some(texts.examples, self.articles, self.options.seed)]
        revision = f"{found.revision}+{texts.revision}"
        name = f"{found.name} + {texts.name}"
        return Data(name, revision, found.split, [*pairs, *articles], text_files=texts.text_files)

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Both; lower is better."""
        from ..metrics.alignment.alignment import squared_distances
        from ..metrics.uniformity.uniformity import uniformity

        pairs = [example for example in data.examples if len(example) == 2]
        articles = [example[0] for example in data.examples if len(example) == 1]
        # The same passage may be in two pairs; its distance to itself says nothing about the others.
        texts = list(dict.fromkeys(text for example in data.examples for text in example))
        vectors = embedder_of(model, self.pooling).encode(texts, progress=progress)
        places = {text: place for place, text in enumerate(texts)}
        firsts, seconds = (vectors[[places[pair[side]] for pair in pairs]] for side in (0, 1))
        distances = squared_distances(firsts, seconds)
        spread = vectors[[places[text] for text in dict.fromkeys(articles)]] if articles else vectors
        closeness = mean_closeness(spread)
        seed = self.options.seed
        instances = [{"pair": number, "squared_distance": float(value)} for number, value in enumerate(distances)]
        instances += [{"text": number, "closeness": float(value)} for number, value in enumerate(closeness)]
        measurements = [
            Measurement(
                "alignment",
                float(distances.mean()),
                False,
                "",
                len(pairs),
                *bootstrap((distances,), lambda sample, axis: sample.mean(axis=axis), seed),
            ),
            Measurement(
                "uniformity",
                uniformity(spread),
                False,
                "",
                len(spread),
                *bootstrap((closeness,), lambda sample, axis: redrawn(closeness.mean(), sample.mean(axis=axis)), seed),
            ),
        ]
        return Outcome(measurements, instances)


def mean_closeness(vectors: np.ndarray) -> np.ndarray:
    """Of each text the mean of exp(−2‖f(xᵢ) − f(xⱼ)‖²) over the others, `(texts,)`.

    Args:
        vectors: unit vectors `(texts, dimensions)`, two or more.
    """
    exact = vectors.astype(np.float64)
    found = np.empty(len(exact))
    for start in range(0, len(exact), _ROWS):
        # On the sphere ‖a − b‖² = 2 − 2 a·b.
        found[start : start + _ROWS] = np.exp(4 * (exact[start : start + _ROWS] @ exact.T) - 4).sum(1)
    # A text is as close to itself as can be, and that is no pair.
    return (found - np.exp(4 * (exact * exact).sum(1) - 4)) / (len(exact) - 1)


def redrawn(mean: np.ndarray | float, drawn: np.ndarray | float) -> np.ndarray | float:
    """Uniformity of texts that were drawn anew, to first order.

    Args:
        mean: closeness of all texts to one another, U.
        drawn: mean of hᵢ over the texts that were drawn.
    """
    return np.log(mean) + 2 * (drawn / mean - 1)
