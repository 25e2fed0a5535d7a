"""The measurements that the plots of tasks draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_jp_modernbert.core.plots import literal
from llm_jp_modernbert.core.results import Row


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
