"""Dataset cards: metadata for `datasets` and the Hub, and a body rendered from `templates/dataset_card.md`."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_jp_modernbert.evaluation.tasks.fill_mask import Prompt

_TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md"
_CONFIG = "default"
_CORPUS_COLUMNS = (
    ("input_ids", "list of int32", "token ids of the document, without special tokens"),
    ("characters", "int32", "length of the text in Unicode characters"),
    ("row", "int32", "row number in the source file, starting at 1"),
)
_PROMPT_COLUMNS = (
    ("id", "string", "unique name of the prompt"),
    ("category", "string", "category of knowledge that the prompt tests"),
    ("text", "string", "text with one gap"),
    ("answers", "list of strings", "accepted answers; empty if none are given"),
)


@dataclass(frozen=True)
class DatasetFacts:
    """Everything that a dataset card states.

    Attributes:
        repository: `ORG/NAME`.
        revision: revision of the repository; None for the main branch.
        license: license id of the Hub.
        languages: ISO 639 codes; empty if unknown.
        files: glob pattern of the split's files.
        size: size of the files, in bytes.
        corpus: manifest of a tokenized corpus; None for prompts.
        prompts: fill-mask prompts; empty for a corpus.
    """

    repository: str
    revision: str | None
    license: str
    languages: tuple[str, ...]
    split: str
    files: str
    rows: int
    size: int
    corpus: dict[str, Any] | None = None
    prompts: Sequence[Prompt] = field(default=(), repr=False)


def dataset_card(facts: DatasetFacts) -> str:
    """Render the README.md of a dataset.

    The metadata declare files and column types, so that `datasets` and the Hub's viewer do not infer them.
    """
    from datasets import DatasetInfo, Features, List, SplitDict, SplitInfo, Value
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    from llm_jp_modernbert.evaluation.tasks.fill_mask import GAP

    types: dict[str, Any] = {"int32": Value("int32"), "string": Value("string")}
    types |= {"list of int32": List(types["int32"]), "list of strings": List(types["string"])}
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
    columns = _PROMPT_COLUMNS if facts.corpus is None else _CORPUS_COLUMNS
    data = DatasetCardData(
        language=list(facts.languages) or None,
        license=facts.license,
        task_categories=["fill-mask"],
        size_categories=[size_category(facts.rows)],
        pretty_name=facts.repository.rpartition("/")[2],
        tags=["tokenized", "pretraining"] if facts.corpus else ["evaluation"],
    )
    info = DatasetInfo(
        features=Features({column: types[kind] for column, kind, _ in columns}),
        splits=SplitDict({facts.split: SplitInfo(facts.split, num_bytes=facts.size, num_examples=facts.rows)}),
        download_size=facts.size,
        dataset_size=facts.size,
    )
    DatasetInfosDict({_CONFIG: info}).to_dataset_card_data(data)
    files = {"data_files": [{"split": facts.split, "path": facts.files}]}
    MetadataConfigs({_CONFIG: files}).to_dataset_card_data(data)
    card = DatasetCard.from_template(
        data,
        str(_TEMPLATE),
        facts=facts,
        columns=columns,
        categories=categories,
        gap=GAP,
        count=lambda number: f"{number:,}",
        cell=lambda text: html.escape(" ".join(text.split()), quote=False).replace("|", "\\|"),
    )
    return str(card).rstrip("\n") + "\n"


def size_category(rows: int) -> str:
    """The Hub's size category of a number of rows, such as `10K<n<100K`."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    above = sum(rows >= 1000 * 10**power for power in range(len(bounds)))
    names = ["n<1K", *(f"{low}<n<{high}" for low, high in pairwise(bounds)), "n>1T"]
    return names[above]
