"""The report and the manifest of a prepared corpus."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datatrove.io import get_datafolder
from datatrove.pipeline.base import PipelineStep

from .layout import MANIFEST, PAGE, REPORT
from .removed import removed_by

if TYPE_CHECKING:
    from .recipe import CorpusRecipe
    from .steps import InputFile


class WriteReport(PipelineStep):
    """Writes the report and the manifest.

    Args:
        recipe: the recipe.
        steps: names of the steps that remove or change documents, in their order.
        files: input files of each task.
        work: directory of the intermediate files.
    """

    type = "REPORT"
    name = "report"

    def __init__(self, recipe: CorpusRecipe, steps: list[str], files: list[list[InputFile]], work: str) -> None:
        super().__init__()
        self.recipe = recipe
        self.steps = steps
        self.files = files
        self.work = work

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Merges the counts of all tasks."""
        output, work = get_datafolder(self.recipe.output_dir), get_datafolder(self.work)
        removed = get_datafolder(f"{self.work}/removed")
        steps = [{"name": name, **removed_by(removed, name)} for name in self.steps]
        documents: Counter[str] = Counter()
        characters: Counter[str] = Counter()
        shards = []
        for name in work.list_files("parts"):
            with work.open(name, "r") as file:
                part = json.load(file)
            documents.update(part["documents"])
            characters.update(part["characters"])
            shards += part["files"]
        splits = {
            split: {"documents": documents[split], "characters": characters[split]} for split in sorted(documents)
        }
        read = sum(documents.values()) + sum(
            step["documents"] for step in steps if step["name"] not in ("unreadable_rows", "normalization")
        )
        report = {"documents_read": read, "steps": steps, "splits": splits}
        manifest = {
            "version": 1,
            "recipe": self.recipe.plain(),
            "inputs": [vars(file) for task in self.files for file in task],
            "splits": splits,
            "files": sorted(shards, key=lambda shard: shard["path"]),
        }
        # Last the manifest, which marks the corpus as complete.
        for name, content in ((REPORT, _json(report)), (PAGE, html(report)), (MANIFEST, _json(manifest))):
            with output.open(name, "w", encoding="utf-8") as file:
                file.write(content)
        for name in ("cleaned", "exact", "near"):
            if work.exists(name):
                work.rm(name, recursive=True)


def html(report: dict[str, Any]) -> str:
    """The report as a page."""
    from jinja2 import Environment

    template = Path(__file__).with_name(PAGE).read_text(encoding="utf-8")
    return Environment(autoescape=True).from_string(template).render(report)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
