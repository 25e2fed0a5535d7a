"""Similarity distribution: distances of related passages, and of random pairs of passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.plots import legend_below, panels_of
from llm_jp_modernbert.core.results import Measurement

from ..data import readers
from ..data.options import Data, Options
from ..encoders.embeddings import embedder_of
from ..report.plots import Measured, short_labels
from .task import Highlight, Outcome, Progress, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..encoders.models import EvaluatedModel

_KINDS = {"positive": "related passages", "random": "random pairs"}


@dataclass(frozen=True)
class Similarity(Task):
    """Squared distances on the unit sphere, from 0 to 4; the same in both protocols.

    Attributes:
        pairs: maximum number of pairs of each kind.
        pooling: pooling of the embeddings.
    """

    pairs: int = 2000
    pooling: str = "auto"

    name = "similarity"
    hub_task = "sentence-similarity"
    highlights = (Highlight("auc", "Similarity AUC"),)

    @classmethod
    def for_options(cls, options: Options) -> Similarity:
        """At least two pairs: random pairs need two."""
        return cls(options, max(2, options.limit or 2000), options.pooling)

    def load(self) -> Data:
        """Pairs of related passages."""
        data = readers.passage_pairs(self.options, self.pairs)
        if len(data.examples) < 2:
            raise UsageError(f"{data.name}: random pairs need at least two pairs of passages.")
        return data

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Mean distances, and the AUC: how often a related pair is closer than a random pair."""
        from sklearn.metrics import roc_auc_score

        from ..metrics.alignment.alignment import squared_distances

        vectors = embedder_of(model, self.pooling).encode_distinct(data.examples, progress)
        firsts, seconds = (np.stack([vectors[pair[side]] for pair in data.examples]) for side in (0, 1))
        # A shift other than 0 pairs no passage with its own partner.
        shift = int(np.random.default_rng(self.options.seed).integers(1, len(firsts)))
        distances = {
            "positive": squared_distances(firsts, seconds),
            "random": squared_distances(firsts, np.roll(seconds, shift, 0)),
        }
        kinds = np.repeat([1, 0], len(firsts))
        # Float32 distances of equal texts in different batches differ in the last digits.
        auc = float(roc_auc_score(kinds, -np.concatenate(list(distances.values())).round(6)))
        measurements = [
            Measurement("auc", auc, scale=100),
            Measurement("squared_distance", float(distances["positive"].mean()), False, "positive"),
            Measurement("squared_distance", float(distances["random"].mean()), True, "random"),
        ]
        instances = [
            {"kind": kind, "squared_distance": float(value)} for kind, values in distances.items() for value in values
        ]
        return Outcome(measurements, instances)

    @classmethod
    def plottable(cls, measured: Measured) -> bool:
        """With the distances of the pairs, which published results lack."""
        return {str(item.get("kind")) for item in measured.instances} >= set(_KINDS)

    @classmethod
    def plot(cls, measured: Sequence[Measured]) -> Figure:
        """Histograms of the cosine similarities, one panel per model."""
        figure, panels = panels_of(len(measured))
        # On the unit sphere, |a − b|² = 2 − 2·cos.
        cosines = [
            [[1 - item["squared_distance"] / 2 for item in model.instances if item["kind"] == kind] for kind in _KINDS]
            for model in measured
        ]
        lowest = min(cosine for kinds in cosines for values in kinds for cosine in values)
        labels = short_labels(measured)
        for axes, model, label, kinds in zip(panels, measured, labels, cosines, strict=True):
            for values, kind in zip(kinds, _KINDS.values(), strict=True):
                axes.hist(values, bins=40, range=(min(lowest, 0.0), 1.0), alpha=0.6, density=True, label=kind)
            auc = model.value("auc")
            axes.set_title(f"{label}   AUC {auc:.3f}" if auc is not None else label, fontsize=9)
            axes.set_xlabel("cosine similarity")
            axes.set_ylabel("density")
        legend_below(figure, panels[0])
        return figure
