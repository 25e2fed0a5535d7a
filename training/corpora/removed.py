"""Counts and a uniform sample of the documents that a step of the pipeline removed."""

from __future__ import annotations

import json
from typing import Any

from datatrove.data import Document
from datatrove.io import DataFolder, get_datafolder

from .measures import hash64

SAMPLES = 20
"""Number of sampled documents for each step."""

_EXCERPT = 1000
_REASON = "filter_reason"


class Removed:
    """Counts the documents that a step removes or changes, and keeps those with the smallest hashes of their ids.

    The samples of all tasks can thus be merged into a uniform sample of the whole corpus, the same in every run.
    Datatrove's steps use it as their `exclusion_writer`.

    Args:
        folder: directory of the counts.
        step: name of the step.
    """

    def __init__(self, folder: str, step: str) -> None:
        self.folder = folder
        self.step = step
        self._rank = 0
        self._documents = self._characters = 0
        self._samples: list[tuple[int, dict[str, Any]]] = []

    def __enter__(self) -> Removed:
        return self

    def write(self, document: Document, rank: int = 0) -> None:
        """Adds a document that task `rank` removed."""
        self._rank = rank
        self._documents += 1
        self._characters += len(document.text)
        key = hash64(document.id)
        if len(self._samples) == SAMPLES and key >= self._samples[-1][0]:
            return
        sample = {
            "id": document.id,
            "characters": len(document.text),
            "text": document.text[:_EXCERPT],
            "reason": document.metadata.get(_REASON, ""),
        }
        self._samples = sorted([*self._samples, (key, sample)], key=lambda pair: pair[0])[:SAMPLES]

    def __exit__(self, *_: object) -> None:
        if not self._documents:
            return
        content = {"documents": self._documents, "characters": self._characters, "samples": self._samples}
        with get_datafolder(self.folder).open(f"{self.step}/{self._rank:05d}.json", "w") as file:
            json.dump(content, file)


def removed_by(folder: DataFolder, step: str) -> dict[str, Any]:
    """The counts and samples of a step over all tasks."""
    documents = characters = 0
    samples: list[tuple[int, dict[str, Any]]] = []
    for name in folder.list_files(step, glob_pattern="*.json") if folder.exists(step) else ():
        with folder.open(name, "r") as file:
            part = json.load(file)
        documents += part["documents"]
        characters += part["characters"]
        samples += part["samples"]
    samples = sorted(samples, key=lambda pair: pair[0])[:SAMPLES]
    return {"documents": documents, "characters": characters, "samples": [sample for _, sample in samples]}
