"""What every evaluation is: settings, data, and a measurement of a model on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..report.results import Measurement

if TYPE_CHECKING:
    from ..encoders.models import EvaluatedModel

Progress = Callable[[float], None]
"""Is told the share of the work that is done, from 0 to 1."""

PROTOCOLS = ("improved", "paper")
"""`paper` is what the paper does; `improved` what this project holds to be better."""


@dataclass(frozen=True)
class Options:
    """What the user asked for, for all tasks.

    Attributes:
        protocol: one of `PROTOCOLS`.
        data_dir: local data in their official layout; without it they come from the Hub.
        train_files: files to fine-tune on in the place of a task's own, in the same layout.
        texts: JSON-lines files of documents, for tasks that measure on any text, in the place of their own.
        prompts: of the fill-mask test in the place of those that come with the package: a file, or `ORG/NAME[@REV]`.
        seed: of everything that is drawn.
        limit: at most so many examples of a task, for a quick look; None for all.
        learning_rates: of the grid of fine-tuning in the place of the protocol's; none for these.
        epochs: as well.
        pooling: how tokens make an embedding: `auto`, `mean`, `cls` or `last-K-layers`.
        work_dir: for what is worth keeping of an unfinished measurement.
    """

    protocol: str = "improved"
    data_dir: Path | None = None
    train_files: tuple[Path, ...] = ()
    texts: tuple[Path, ...] = ()
    prompts: Path | None = None
    seed: int = 0
    limit: int | None = None
    learning_rates: tuple[float, ...] = ()
    epochs: tuple[int, ...] = ()
    pooling: str = "auto"
    work_dir: Path | None = None


@dataclass(frozen=True)
class Data:
    """Examples and their origin; attributes as in `results.Run`."""

    name: str
    revision: str
    split: str
    examples: Sequence[Any]
    train_files: tuple[str, ...] = ()
    text_files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a task found.

    Attributes:
        measurements: its figures.
        instances: what the model gave for each example, as plain values.
    """

    measurements: list[Measurement]
    instances: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Task(ABC):
    """One evaluation. Its fields are its settings, which stand in every result.

    Attributes:
        options: what was asked for all tasks.
    """

    options: Options

    name: ClassVar[str]
    """As `--tasks` names it."""

    averaged_with: ClassVar[tuple[str, ...]] = ()
    """Tasks whose main metric is averaged with that of this task, itself included."""

    shared: ClassVar[bool] = False
    """Whether several processes share the work of a measurement; else the first does it alone."""

    @property
    def title(self) -> str:
        """What results call it."""
        return self.name

    @property
    def selector(self) -> str:
        """The value of `--tasks` that selects this task."""
        return self.name

    def settings(self) -> dict[str, Any]:
        """The protocol's settings as plain values."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "options"}
        return {**own, "limit": self.options.limit}

    @abstractmethod
    def load(self) -> Data:
        """Reads the data.

        Raises:
            UsageError: they cannot be had, with a word on where to get them, or are not what they ought to be.
        """

    @abstractmethod
    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Measures a model.

        Raises:
            UsageError: the model cannot be measured so.
        """
