"""The files of a prepared corpus, and the types of its manifest and report."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

REPORT, PAGE, MANIFEST = "report.json", "report.html", "manifest.json"
WORK = "work"
"""Directory of intermediate files, task markers and logs."""
COLUMNS = ("id", "source", "text")


class SplitCounts(TypedDict):
    """Size of a split."""

    documents: int
    characters: int


class PreparedFile(TypedDict):
    """A file of the corpus; its path is relative to the corpus, its size is in bytes."""

    path: str
    bytes: int
    sha256: str


class PreparedManifest(TypedDict):
    """Recipe, inputs and files of a corpus. It is written last and marks the corpus as complete."""

    version: int
    recipe: dict[str, Any]
    inputs: list[dict[str, Any]]
    splits: dict[str, SplitCounts]
    files: list[PreparedFile]


class Step(TypedDict):
    """Documents that a step removed; for `normalization`, those that it changed."""

    name: str
    documents: int
    characters: int
    samples: list[dict[str, Any]]


class Report(TypedDict):
    """Counts of a preparation."""

    documents_read: int
    steps: list[Step]
    splits: dict[str, SplitCounts]
