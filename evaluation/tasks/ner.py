"""Named entity recognition on Stockmark's Wikipedia sentences, scored by characters.

`f1_ceiling` is the F1 of perfect token labels: the rest is lost by tokens that cross an entity boundary.

The data have no official splits. By a hash of each sentence, eight of ten train, one selects the grid point, and one
is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import NotRequired, TypedDict

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import fingerprint, parse_json
from llm_jp_modernbert.core.text_files import read_text
from llm_jp_modernbert.training.finetuning.data.entities import sentence_of
from llm_jp_modernbert.training.finetuning.ner import Ner, Sentence, entities, tags_of, token_tags

from ..data.readers import find, hub_files
from .finetuning import FineTuning, Splits, bucket

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REPOSITORY = "stockmark/ner-wikipedia-dataset"


@dataclass(frozen=True)
class WikipediaNer(FineTuning):
    """The same splits in both protocols."""

    name = "ner"
    hub_task = "token-classification"
    metric = "f1"
    metrics = ("f1", "precision", "recall")

    def load(self) -> Splits:
        """A JSON list of `{curid, text, entities: [{name, span, type}]}`, split by a hash."""
        options = self.options
        if options.train_files:
            raise UsageError("ner splits its own data by a hash, so it does not support --train-file.")
        if options.data_dir is not None:
            files = find(options.data_dir, "ner*.json*", f"huggingface.co/datasets/{_REPOSITORY}")
            revision = fingerprint(files)
        else:
            folder, revision = hub_files(_REPOSITORY, "*.json")
            files = sorted(folder.glob("*.json"))
        parts: list[list[Sentence]] = [[], [], []]
        for path in files:
            for key, sentence in _sentences(path):
                parts[{8: 1, 9: 2}.get(bucket(key, 10), 0)].append(sentence)
        if not all(parts):
            raise UsageError(f"{files[0]}: {sum(map(len, parts))} sentences are too few for three splits.")
        train, dev, test = (part[: options.limit] for part in parts)
        types = {kind for part in parts for sentence in part for *_, kind in sentence.entities}
        head_task = Ner(tags_of(sorted(types)))
        return Splits("Wikipedia NER", revision, "test", test, train=train, dev=dev, head_task=head_task)

    def diagnostics(self, tokenizer: PreTrainedTokenizerBase, data: Splits, length: int) -> dict[str, float | None]:
        perfect = [
            entities(row.offsets, token_tags(row.offsets, data.examples[row.example].entities))
            for row in data.head_task.encode(tokenizer, data.examples, length)
        ]
        return {"f1_ceiling": data.head_task.scores(data.examples, perfect)["f1"]}


class _Row(TypedDict):
    text: str
    entities: list[dict[str, Any]]
    curid: NotRequired[str | int | None]


def _sentences(path: Path) -> Iterator[tuple[str, Sentence]]:
    """Sentences of a file, each with the key of its split."""
    rows: list[_Row] = parse_json(read_text(path), f"{path}: not a JSON list of sentences", list[_Row])
    for number, row in enumerate(rows, start=1):
        try:
            sentence = sentence_of(row["text"], row["entities"])
        except ValueError as error:
            raise UsageError(f"{path}, sentence {number}: {error}.") from None
        yield f"{row.get('curid', '')}{sentence.text}", sentence
