"""The measurements that the plots of tasks draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.plots import draw_interval, literal, panels_of
from llm_jp_modernbert.core.results import RANKING_METRIC, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Measured:
    """One finished measurement: its rows, and the model's output for each example."""

    rows: list[Row]
    instances: list[dict[str, Any]]

    @property
    def model(self) -> str:
        """The model's name in results."""
        return self.rows[0].model

    @property
    def label(self) -> str:
        """The last two parts of the model's name."""
        return "/".join(self.model.rstrip("/").split("/")[-2:])

    @property
    def about(self) -> str:
        """Data, protocol and limit, for the title of a plot."""
        row = self.rows[0]
        limit = row.settings.get("limit")
        return f"{row.dataset}, {row.split}; {row.protocol} protocol{f', limit {limit}' if limit else ''}"

    def value(self, metric: str, subset: str = "") -> float | None:
        """The value of a metric; None if missing."""
        return next((row.value for row in self.rows if (row.metric, row.subset) == (metric, subset)), None)


def short_labels(measured: Sequence[Measured]) -> list[str]:
    """Labels of the models; only the revisions if all are of one model."""
    labels = [model.label for model in measured]
    names = {label.partition("@")[0] for label in labels}
    if len(names) == 1 < len(labels):
        labels = [label.partition("@")[2] or label for label in labels]
    return [literal(label) for label in labels]


def ranking_row(measured: Measured) -> Row | None:
    """nDCG@10 of a trained retrieval model, or Spearman's correlation for scored pairs; None for other results."""
    if not measured.rows[0].task.startswith("train-"):
        return None
    rows = {row.metric: row for row in measured.rows if row.value is not None}
    return rows.get(RANKING_METRIC) or rows.get("spearman")


def plot_rankings(measured: Sequence[Measured]) -> Figure:
    """Plots the main metric of retrieval models, the best on top, with intervals; seeds of a model share a line."""
    by_model: dict[str, list[Row]] = {}
    for model in measured:
        row = ranking_row(model)
        by_model.setdefault(model.label, []).extend([row] if row is not None else [])
    ordered = sorted(by_model.items(), key=lambda item: max(row.value or 0.0 for row in item[1]))
    figure, (axes,) = panels_of(1, height=max(2.4, 1.2 + 0.3 * len(ordered)))
    for height, (_, rows) in enumerate(ordered):
        for row in rows:
            draw_interval(axes, height, row, "C0")
    axes.set_yticks(range(len(ordered)), [literal(label) for label, _ in ordered], fontsize=8)
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(f"{ordered[0][1][0].metric} (× 100), 95 % intervals")
    return figure
