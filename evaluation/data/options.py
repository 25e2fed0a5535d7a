"""Options that every task receives, and the data that it measures on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Options:
    """Options of a measurement, shared by all tasks.

    Attributes:
        protocol: `paper` repeats the paper; `default` is this library's recommendation.
        data_dir: local datasets in their official layout; None to read from the Hub.
        train_files: files to fine-tune on instead of the task's own training split, in the same layout.
        texts: JSON-lines files of documents to measure on, for tasks that accept any text.
        prompts: fill-mask prompts to use instead of the packaged ones: a file, or `ORG/NAME[@REVISION]`.
        seed: random seed.
        limit: maximum number of examples; None for all.
        learning_rates: fine-tuning grid; empty for the protocol's.
        epochs: fine-tuning grid; empty for the protocol's.
        pooling: how token vectors become an embedding: `auto`, `mean`, `cls` or `last-K-layers`.
        candidates: model whose first passages a reranker orders, or `bm25`.
        work_dir: directory for intermediate results of an unfinished measurement.
    """

    protocol: str = "default"
    data_dir: Path | None = None
    train_files: tuple[Path, ...] = ()
    texts: tuple[Path, ...] = ()
    prompts: Path | None = None
    seed: int = 0
    limit: int | None = None
    learning_rates: tuple[float, ...] = ()
    epochs: tuple[int, ...] = ()
    pooling: str = "auto"
    candidates: str = "bm25"
    work_dir: Path | None = None


@dataclass(frozen=True)
class Data:
    """Examples and their origin; attributes as in `core.results.Run`."""

    name: str
    revision: str
    split: str
    examples: Sequence[Any]
    train_files: tuple[str, ...] = ()
    text_files: tuple[str, ...] = ()
