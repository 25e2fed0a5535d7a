"""Dataset cards: metadata for `datasets` and the Hub, and a body rendered from a template."""

from __future__ import annotations

import html
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from llm_jp_modernbert.evaluation.tasks.fill_mask import Prompt
    from llm_jp_modernbert.training.corpora.layout import PreparedManifest, Report
    from llm_jp_modernbert.training.data.manifest import Manifest

_TEMPLATES = Path(__file__).parent / "templates"
_CONFIG = "default"
_CORPUS_COLUMNS = (
    ("input_ids", "list of int32", "token ids of the document, without special tokens"),
    ("characters", "int32", "length of the text in Unicode characters"),
    ("row", "int32", "row number in the source file, starting at 1"),
)
_TEXT_COLUMNS = (
    ("id", "string", "source, file and row of the document"),
    ("source", "string", "name of the source"),
    ("text", "string", "text of the document"),
)
_PROMPT_COLUMNS = (
    ("id", "string", "unique name of the prompt"),
    ("category", "string", "category of knowledge that the prompt tests"),
    ("text", "string", "text with one gap"),
    ("answers", "list of strings", "accepted answers; empty if none are given"),
)


@dataclass(frozen=True)
class SplitFacts:
    """A split.

    Attributes:
        files: glob pattern of its files.
        size: size of the files, in bytes.
    """

    name: str
    files: str
    rows: int
    size: int


@dataclass(frozen=True)
class DatasetFacts:
    """Everything that a dataset card states.

    Attributes:
        repository: `ORG/NAME`.
        revision: revision of the repository; None for the main branch.
        license: license id of the Hub.
        languages: ISO 639 codes; empty if unknown.
        corpus: manifest of a tokenized corpus.
        prepared: manifest of a prepared corpus of texts.
        report: counts of its preparation.
        prompts: fill-mask prompts; empty for a corpus.
    """

    repository: str
    revision: str | None
    license: str
    languages: tuple[str, ...]
    splits: Sequence[SplitFacts]
    corpus: Manifest | None = None
    prepared: PreparedManifest | None = None
    report: Report | None = None
    prompts: Sequence[Prompt] = field(default=(), repr=False)


def dataset_card(facts: DatasetFacts) -> str:
    """Render the README.md of a dataset.

    The metadata declare files and column types, so that `datasets` and the Hub's viewer do not infer them.
    """
    from datasets import DatasetInfo, Features, List, SplitDict, SplitInfo, Value
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    types: dict[str, Any] = {"int32": Value("int32"), "string": Value("string")}
    types |= {"list of int32": List(types["int32"]), "list of strings": List(types["string"])}
    columns: tuple[tuple[str, str, str], ...]
    if facts.prepared is not None:
        template, columns, tags, contents = "text_corpus_card.md", _TEXT_COLUMNS, ["pretraining"], _preparation(facts)
    elif facts.corpus is not None:
        template, columns, tags, contents = "dataset_card.md", _CORPUS_COLUMNS, ["tokenized", "pretraining"], {}
    else:
        template, columns, tags, contents = "dataset_card.md", _PROMPT_COLUMNS, ["evaluation"], _categories(facts)
    size = sum(split.size for split in facts.splits)
    data = DatasetCardData(
        language=list(facts.languages) or None,
        license=facts.license,
        task_categories=["fill-mask"],
        size_categories=[size_category(sum(split.rows for split in facts.splits))],
        pretty_name=facts.repository.rpartition("/")[2],
        tags=tags,
    )
    info = DatasetInfo(
        features=Features({column: types[kind] for column, kind, _ in columns}),
        splits=SplitDict(
            {
                split.name: SplitInfo(split.name, num_bytes=split.size, num_examples=split.rows)
                for split in facts.splits
            }
        ),
        download_size=size,
        dataset_size=size,
    )
    DatasetInfosDict({_CONFIG: info}).to_dataset_card_data(data)
    files = {"data_files": [{"split": split.name, "path": split.files} for split in facts.splits]}
    MetadataConfigs({_CONFIG: files}).to_dataset_card_data(data)
    card = DatasetCard.from_template(
        data,
        str(_TEMPLATES / template),
        facts=facts,
        columns=columns,
        count=lambda number: f"{number:,}",
        cell=lambda text: html.escape(" ".join(text.split()), quote=False).replace("|", "\\|"),
        **contents,
    )
    return str(card).rstrip("\n") + "\n"


def _categories(facts: DatasetFacts) -> dict[str, Any]:
    """Values of the template for prompts."""
    from llm_jp_modernbert.evaluation.tasks.fill_mask import GAP

    by_category: dict[str, list[Prompt]] = {}
    for prompt in facts.prompts:
        by_category.setdefault(prompt.category, []).append(prompt)
    categories = [
        {
            "name": name,
            "prompts": len(prompts),
            "answers": sum(len(prompt.answers) for prompt in prompts),
            "example": min(prompts, key=lambda prompt: len(prompt.text)),
        }
        for name, prompts in by_category.items()
    ]
    return {"categories": categories, "gap": GAP}


def _preparation(facts: DatasetFacts) -> dict[str, Any]:
    """Values of the template for a prepared corpus."""
    assert facts.prepared is not None
    recipe = facts.prepared["recipe"]
    settings = {name: _range(**accepted) for name, accepted in recipe["filters"].items()}
    near, evaluation = recipe["near_duplicates"], recipe["decontamination"]
    if near is not None:
        settings["near_duplicates"] = (
            f"MinHash, {near['characters']}-grams of characters, {near['bands']} × {near['hashes']} hashes"
        )
    if evaluation is not None:
        settings["decontamination"] = (
            f"{evaluation['share']:.0%} of the {evaluation['characters']}-grams of a sentence of "
            f"{', '.join(evaluation['texts'])}"
        )
    return {
        "documents": sum(split.rows for split in facts.splits),
        "files": Counter(file["path"].partition("/")[0] for file in facts.prepared["files"]),
        "settings": defaultdict(str, settings),
        "recipe": yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False).rstrip(),
    }


def _range(min: float | None, max: float | None) -> str:
    bounds = [f"{sign} {bound:,.12g}" for sign, bound in (("≥", min), ("≤", max)) if bound is not None]
    return ", ".join(bounds)


def size_category(rows: int) -> str:
    """The Hub's size category of a number of rows, such as `10K<n<100K`."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    above = sum(rows >= 1000 * 10**power for power in range(len(bounds)))
    names = ["n<1K", *(f"{low}<n<{high}" for low, high in pairwise(bounds)), "n>1T"]
    return names[above]
