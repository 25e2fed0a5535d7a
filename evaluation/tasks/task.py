"""The base class of evaluation tasks.

A task is one module of this package. It declares everything that is specific to it: its name, its settings, how it
loads data and measures a model, its plot, and its place in model cards. `registry` finds it by its class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.results import EMBEDDING_FILES, Measurement, Row

from ..data.options import Data, Options

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..encoders.models import EvaluatedModel
    from ..report.plots import Measured

Progress = Callable[[float], None]
"""Called with the completed share of the work, from 0 to 1."""


@dataclass(frozen=True)
class Outcome:
    """Result of a task.

    Attributes:
        measurements: its values.
        instances: the model's output for each example, as plain values.
    """

    measurements: list[Measurement]
    instances: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Highlight:
    """A value that represents its task in the table of training states of a model card.

    Attributes:
        metric: name of the metric.
        label: column heading.
        protocol: protocol of the value.
        context: tokens of context of the value; None for a value over all of the data.
    """

    metric: str
    label: str
    protocol: str = "default"
    context: int | None = None

    def matches(self, row: Row) -> bool:
        """Whether a row of the task contains the value."""
        part = row.context == self.context if self.context else not row.subset
        return part and (row.metric, row.protocol) == (self.metric, self.protocol) and row.split != "dev"


@dataclass(frozen=True)
class Task(ABC):
    """One evaluation. Its fields are its settings, which every result contains.

    Attributes:
        options: options shared by all tasks.
    """

    options: Options

    name: ClassVar[str]
    """Name for `--tasks` and in results."""

    hub_task: ClassVar[str]
    """Task type of the Hub (huggingface.co/tasks), for model cards."""

    highlights: ClassVar[tuple[Highlight, ...]] = ()
    """Values for the table of training states of a model card."""

    averaged_with: ClassVar[tuple[str, ...]] = ()
    """Tasks whose main metric the leaderboard averages with that of this task, itself included."""

    shared: ClassVar[bool] = False
    """Whether several processes share a measurement; if not, the first process makes it alone."""

    needs_weights: ClassVar[bool] = True
    """Whether the task measures only models with weights, not BM25."""

    @classmethod
    def selectors(cls) -> tuple[str, ...]:
        """Values of `--tasks` that select this task: its name, or `name:argument`."""
        return (cls.name,)

    @classmethod
    def select(cls, selector: str) -> Sequence[Callable[[Options], Task]]:
        """Constructors of the tasks that a value of `--tasks` selects.

        Raises:
            UsageError: unknown argument.
        """
        if selector != cls.name:
            raise UsageError(f"--tasks {selector}: no such task. Choose from {', '.join(cls.selectors())}.")
        return [cls.for_options]

    @classmethod
    def for_options(cls, options: Options) -> Task:
        """The task with the settings of the protocol."""
        return cls(options)

    @property
    def title(self) -> str:
        """The task's name in results."""
        return self.name

    @property
    def selector(self) -> str:
        """The value of `--tasks` that selects this task."""
        return self.name

    def settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "options"}
        return {**own, "limit": self.options.limit}

    def settings_of(self, model: EvaluatedModel) -> dict[str, Any]:
        """All settings of the measurement of a model."""
        settings = {**self.settings(), "dtype": model.dtype}
        # The model's own files decide about `auto`.
        if settings.get("pooling") == "auto" and model.embedding_files:
            settings[EMBEDDING_FILES] = model.embedding_files
        return settings

    @abstractmethod
    def load(self) -> Data:
        """Reads the data.

        Raises:
            UsageError: the data are missing (the message says where to get them) or invalid.
        """

    @abstractmethod
    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Measures a model.

        Raises:
            UsageError: the task does not apply to the model.
        """

    @classmethod
    def plottable(cls, measured: Measured) -> bool:
        """Whether `plot` can draw a measurement; False for tasks without a plot."""
        return False

    @classmethod
    def plot(cls, measured: Sequence[Measured]) -> Figure:
        """Plots comparable results of one protocol, one per model."""
        raise NotImplementedError

    @classmethod
    def compare(cls, instances: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
        """Markdown that compares the outputs of several models for the same examples; None if there is none."""
        return None
