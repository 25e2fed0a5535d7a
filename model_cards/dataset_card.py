"""Cards of datasets: metadata that the Hub and `datasets` read, and a text that is made from the data alone."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_jp_modernbert.evaluation.tasks.fill_mask import Prompt

TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md"

_CONFIG = "default"
_CORPUS_COLUMNS = (
    ("input_ids", "list of int32", "token ids of a document, without special tokens"),
    ("characters", "int32", "length of its text, in Unicode characters"),
    ("row", "int32", "its row in the source file, from 1"),
)
_PROMPT_COLUMNS = (
    ("id", "string", "name of the prompt"),
    ("category", "string", "what it asks about"),
    ("text", "string", "a text with one gap"),
    ("answers", "list of strings", "what may stand in the gap; empty where nobody said"),
)


@dataclass(frozen=True)
class DatasetFacts:
    """What a card says.

    Attributes:
        repository: `ORG/NAME`.
        revision: of the repository, where it is not the main one.
        license: a Hub licence id.
        languages: ISO 639 codes.
        split: of `datasets`.
        files: pattern of the files of the split.
        rows: how many it has.
        size: of its files, in bytes.
        corpus: the manifest of a tokenised corpus; None for prompts.
        prompts: of a fill-mask test; none for a corpus.
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
    """The README.md of a dataset.

    Its metadata names the files of the split and the types of the columns, so that `datasets` and the Hub's viewer
    need not guess them.
    """
    from datasets import DatasetInfo, Features, List, SplitDict, SplitInfo, Value
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    from llm_jp_modernbert.evaluation.tasks.fill_mask import GAP

    # Written out: what stands in a card is checked against the files before anything is sent.
    kinds: dict[str, Any] = {"int32": Value("int32"), "string": Value("string")}
    kinds |= {"list of int32": List(kinds["int32"]), "list of strings": List(kinds["string"])}
    columns = _PROMPT_COLUMNS if facts.corpus is None else _CORPUS_COLUMNS
    name = facts.repository.rpartition("/")[2]
    data = DatasetCardData(
        language=list(facts.languages),
        license=facts.license,
        task_categories=["fill-mask"],
        size_categories=[size_category(facts.rows)],
        pretty_name=name,
        tags=["tokenized", "pretraining"] if facts.corpus else ["evaluation"],
    )
    info = DatasetInfo(
        features=Features({column: kinds[kind] for column, kind, _ in columns}),
        splits=SplitDict({facts.split: SplitInfo(facts.split, num_bytes=facts.size, num_examples=facts.rows)}),
        download_size=facts.size,
        dataset_size=facts.size,
    )
    DatasetInfosDict({_CONFIG: info}).to_dataset_card_data(data)
    files = {"data_files": [{"split": facts.split, "path": facts.files}]}
    MetadataConfigs({_CONFIG: files}).to_dataset_card_data(data)
    card = DatasetCard.from_template(
        data,
        str(TEMPLATE),
        repository=facts.repository,
        revision=facts.revision,
        split=facts.split,
        columns=columns,
        corpus=facts.corpus,
        prompts=facts.prompts,
        categories=_categories(facts.prompts),
        gap=GAP,
        count=lambda number: f"{number:,}",
        cell=_cell,
    )
    return str(card).rstrip("\n") + "\n"


def size_category(rows: int) -> str:
    """The Hub's name for a number of rows, such as `10K<n<100K`."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    above = sum(rows >= 1000 * 10**power for power in range(len(bounds)))
    if above == 0:
        return "n<1K"
    return "n>1T" if above == len(bounds) else f"{bounds[above - 1]}<n<{bounds[above]}"


def _categories(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    found = []
    for name in dict.fromkeys(prompt.category for prompt in prompts):
        members = [prompt for prompt in prompts if prompt.category == name]
        answers = sum(len(prompt.answers) for prompt in members)
        shortest = min(members, key=lambda prompt: len(prompt.text))
        found.append({"name": name, "prompts": len(members), "answers": answers, "example": shortest})
    return found


def _cell(text: str) -> str:
    """A text in a Markdown table: nothing in it ends the cell, or is read as HTML."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
