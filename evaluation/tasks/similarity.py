"""Similarity distribution: how far passages that belong together lie apart, and how far any two passages do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from ..data import readers as datasets
from ..encoders.embeddings import embedder_of
from ..report.results import Measurement
from .task import Data, Options, Outcome, Progress, Task

if TYPE_CHECKING:
    from ..encoders.models import EvaluatedModel


@dataclass(frozen=True)
class Similarity(Task):
    """Squared distances on the unit sphere, from 0 to 4; the same in both protocols.

    Attributes:
        pairs: pairs of either kind at most.
        pooling: of the embeddings.
    """

    pairs: int = 2000
    pooling: str = "auto"

    name: ClassVar[str] = "similarity"

    @classmethod
    def for_options(cls, options: Options) -> Similarity:
        """With the protocol's settings."""
        # One pair alone has no other to be compared with.
        return cls(options, max(2, options.limit or 2000), options.pooling)

    def load(self) -> Data:
        """Pairs of passages that belong together."""
        found = datasets.passage_pairs(self.options)
        if len(found.examples) < 2:
            raise UsageError(f"{found.name}: random pairs need two pairs of passages or more.")
        return Data(
            found.name, found.revision, found.split, datasets.some(found.examples, self.pairs, self.options.seed)
        )

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Means of both kinds, and the AUC: how often a pair that belongs together is nearer than a random one."""
        from sklearn.metrics import roc_auc_score

        from ..metrics.alignment.alignment import squared_distances

        texts = list(dict.fromkeys(text for pair in data.examples for text in pair))
        vectors = embedder_of(model, self.pooling).encode(texts, progress=progress)
        places = {text: place for place, text in enumerate(texts)}
        firsts, seconds = (vectors[[places[pair[side]] for pair in data.examples]] for side in (0, 1))
        # Turned by any number but 0, no passage meets its own partner.
        turn = int(np.random.default_rng(self.options.seed).integers(1, len(firsts)))
        positive, random = squared_distances(firsts, seconds), squared_distances(firsts, np.roll(seconds, turn, 0))
        kinds = np.repeat([1, 0], [len(positive), len(random)])
        auc = roc_auc_score(kinds, -np.concatenate([positive, random]))
        measurements = [
            Measurement("auc", float(auc), scale=100),
            Measurement("squared_distance", float(positive.mean()), False, "positive"),
            Measurement("squared_distance", float(random.mean()), True, "random"),
        ]
        instances = [
            {"kind": kind, "squared_distance": float(value)}
            for kind, values in (("positive", positive), ("random", random))
            for value in values
        ]
        return Outcome(measurements, instances)
