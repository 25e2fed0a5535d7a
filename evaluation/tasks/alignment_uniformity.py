"""Alignment and uniformity of embeddings (Wang and Isola 2020), as in SimCSE (Gao et al. 2021).

Paper's protocol: alignment over pairs of passages, uniformity over whole articles. Default protocol: uniformity over
the passages of the pairs, so that both values describe the same texts.

Uniformity is the logarithm of U, the mean closeness exp(−2‖f(xᵢ) − f(xⱼ)‖²) of two texts. Its confidence interval
resamples texts with a first-order approximation (Hoeffding 1948): log U + 2 (mean hᵢ / U − 1), where hᵢ is the mean
closeness of text i to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from llm_jp_modernbert.core.checkpoint_names import CheckpointName
from llm_jp_modernbert.core.intervals import bootstrap
from llm_jp_modernbert.core.plots import legend_below, literal, panels_of
from llm_jp_modernbert.core.results import Measurement, trajectories

from ..data import readers
from ..data.options import Data, Options
from ..encoders.embeddings import embedder_of
from ..report.plots import Measured
from .task import Highlight, Outcome, Progress, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..encoders.models import EvaluatedModel


@dataclass(frozen=True)
class AlignmentUniformity(Task):
    """Lower is better for both.

    Attributes:
        pairs: maximum number of pairs.
        articles: maximum number of articles; 0 to use the passages of the pairs.
        pooling: pooling of the embeddings.
    """

    pairs: int = 2000
    articles: int = 0
    pooling: str = "auto"

    name = "alignment-uniformity"
    hub_task = "sentence-similarity"
    highlights = (
        Highlight("alignment", "Alignment"),
        Highlight("uniformity", "Uniformity"),
    )

    @classmethod
    def for_options(cls, options: Options) -> AlignmentUniformity:
        """Articles only in the paper's protocol."""
        articles = 4000 if options.protocol == "paper" else 0
        limit = options.limit
        return cls(options, limit or 2000, min(articles, limit) if limit else articles, options.pooling)

    def load(self) -> Data:
        """Pairs of passages, followed by the articles as tuples of one text."""
        data = readers.passage_pairs(self.options, self.pairs)
        if not self.articles:
            return data
        texts = readers.documents(self.options)
        articles = [(text,) for text in readers.sample(texts.examples, self.articles, self.options.seed)]
        name, revision = f"{data.name} + {texts.name}", f"{data.revision}+{texts.revision}"
        return Data(name, revision, data.split, [*data.examples, *articles], text_files=texts.text_files)

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Both values with confidence intervals."""
        from ..metrics.alignment.alignment import squared_distances
        from ..metrics.uniformity.uniformity import mean_closeness

        pairs = [example for example in data.examples if len(example) == 2]
        articles = [example[0] for example in data.examples if len(example) == 1]
        vectors = embedder_of(model, self.pooling).encode_distinct(data.examples, progress)
        firsts, seconds = (np.stack([vectors[pair[side]] for pair in pairs]) for side in (0, 1))
        distances = squared_distances(firsts, seconds)
        # A passage of two pairs counts once: its distance to itself is not informative.
        spread = np.stack([vectors[text] for text in dict.fromkeys(articles or vectors)])
        closeness = mean_closeness(spread)
        seed = self.options.seed
        instances = [{"pair": number, "squared_distance": float(value)} for number, value in enumerate(distances)]
        instances += [{"text": number, "closeness": float(value)} for number, value in enumerate(closeness)]
        low, high = bootstrap((distances,), lambda sample, axis: sample.mean(axis=axis), seed)
        alignment = Measurement("alignment", float(distances.mean()), False, "", len(pairs), low, high)
        low, high = bootstrap(
            (closeness,), lambda sample, axis: redrawn(closeness.mean(), sample.mean(axis=axis)), seed
        )
        return Outcome(
            [alignment, Measurement("uniformity", float(np.log(closeness.mean())), False, "", len(spread), low, high)],
            instances,
        )

    @classmethod
    def plottable(cls, measured: Measured) -> bool:
        return None not in (measured.value("uniformity"), measured.value("alignment"))

    @classmethod
    def plot(cls, measured: Sequence[Measured]) -> Figure:
        """One point per model, with arrows along the checkpoints of a run."""
        figure, (axes,) = panels_of(1)
        points = {
            model.model: (model.value("uniformity") or 0.0, model.value("alignment") or 0.0) for model in measured
        }
        labels = {model.model: literal(model.label) for model in measured}
        runs = trajectories(list(points))
        singles = [[model] for model in points if not any(model in run for run in runs)]
        for number, run in enumerate((*runs, *singles)):
            color = f"C{number}"
            steps = [f"{name.step:,}" if (name := CheckpointName.parse(model)) else "" for model in run]
            label = labels[run[0]] if len(run) == 1 else f"{labels[run[0]]} → {steps[-1]}"
            xs, ys = zip(*(points[model] for model in run), strict=True)
            # After ten colors, they repeat with other markers.
            axes.scatter(xs, ys, s=24, zorder=3, color=color, label=label, marker="osD^v"[number // 10 % 5])
            for before, after in pairwise(run):
                # The arrow head is above the points, so it stays visible between close ones.
                arrow = {"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 2, "mutation_scale": 9}
                axes.annotate("", points[after], points[before], arrowprops=arrow, zorder=4)
            if len(run) > 1:
                for model, step in zip(run, steps, strict=True):
                    axes.annotate(step, points[model], (4, 5), textcoords="offset points", fontsize=7, color=color)
        axes.margins(0.1)
        axes.set_xlabel("uniformity (lower is better)")
        axes.set_ylabel("alignment (lower is better)")
        legend_below(figure, axes)
        return figure


def redrawn(mean: np.ndarray | float, drawn: np.ndarray | float) -> np.ndarray | float:
    """First-order approximation of the uniformity of resampled texts.

    Args:
        mean: mean closeness U of all texts.
        drawn: mean of hᵢ over the resampled texts.
    """
    return np.log(mean) + 2 * (drawn / mean - 1)
