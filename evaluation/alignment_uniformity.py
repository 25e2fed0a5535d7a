"""Alignment and uniformity of embeddings (Wang and Isola 2020), as in SimCSE (Gao et al. 2021).

Paper's protocol: alignment over pairs of passages, uniformity over whole articles. Improved: uniformity over the
passages of the pairs themselves, so that both figures are of the same texts, and a confidence interval of alignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from . import datasets
from .intervals import bootstrap
from .results import Measurement
from .task import Data, Options, Outcome, Progress, Task

if TYPE_CHECKING:
    from .loading import EvaluatedModel


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
        return Data(f"{found.name} + {texts.name}", revision, found.split, [*pairs, *articles])

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Both; lower is better."""
        from .metrics.alignment.alignment import squared_distances
        from .metrics.uniformity.uniformity import uniformity

        pairs = [example for example in data.examples if len(example) == 2]
        articles = [example[0] for example in data.examples if len(example) == 1]
        # The same passage may be in two pairs; its distance to itself says nothing about the others.
        texts = list(dict.fromkeys(text for example in data.examples for text in example))
        vectors = model.embedder(self.pooling).encode(texts, progress=progress)
        places = {text: place for place, text in enumerate(texts)}
        firsts, seconds = (vectors[[places[pair[side]] for pair in pairs]] for side in (0, 1))
        distances = squared_distances(firsts, seconds)
        spread = vectors[[places[text] for text in dict.fromkeys(articles)]] if articles else vectors
        low, high = bootstrap((distances,), lambda sample, axis: sample.mean(axis=axis), self.options.seed)
        instances = [{"pair": number, "squared_distance": float(value)} for number, value in enumerate(distances)]
        measurements = [
            Measurement("alignment", float(distances.mean()), False, "", len(pairs), low, high),
            Measurement("uniformity", uniformity(spread), False, "", len(spread)),
        ]
        return Outcome(measurements, instances)
