"""Named entities, by characters: Wikipedia sentences of Stockmark with the spans of their entities.

Spans are of characters, tokens are not: a token gets the type of the entity that it shares a character with, and what
a model finds is read back as characters and scored as such, so that no model is measured by another's tokens.
`f1_ceiling` is what perfect labels would reach with the model's tokens: the rest is lost by tokens that reach over an
entity's end.

The data have no splits: by a hash of each sentence, eight of ten are learned from, one chooses, and one is reported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from llm_jp_modernbert.core.errors import UsageError

from ..data.readers import find, fingerprint, hub_files, read
from ..data.spans import Span, special_tokens, with_spans
from .finetuning import FineTuning, Row, Splits, bucket

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REPOSITORY = "stockmark/ner-wikipedia-dataset"
_IGNORED = -100

Entity = tuple[int, int, str]
"""Where it begins and ends in the text, in characters, and its type."""


@dataclass(frozen=True)
class Sentence:
    """A text and its entities in their order; they do not overlap."""

    text: str
    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class Ner(FineTuning):
    """The same splits in both protocols."""

    name: ClassVar[str] = "ner"
    head: ClassVar[str] = "AutoModelForTokenClassification"
    metric: ClassVar[str] = "f1"

    def load(self) -> Splits:
        """A JSON list of `{curid, text, entities: [{name, span, type}]}`, parted by a hash."""
        options = self.options
        if options.train_files:
            raise UsageError("ner is parted into its splits by a hash, so --train-file is not for it.")
        if options.data_dir is not None:
            files = find(options.data_dir, "ner*.json*", f"it (huggingface.co/datasets/{_REPOSITORY})")
            revision = fingerprint(files)
        else:
            folder, revision = hub_files(_REPOSITORY, "*.json")
            files = sorted(folder.glob("*.json"))
        parts: list[list[Sentence]] = [[], [], []]
        for path in files:
            for key, sentence in _sentences(path):
                parts[{8: 1, 9: 2}.get(bucket(key, 10), 0)].append(sentence)
        if not all(parts):
            raise UsageError(f"{files[0]}: {sum(map(len, parts))} sentences are too few to part into three.")
        train, dev, test = (part[: options.limit] for part in parts)
        types = {kind for part in parts for sentence in part for *_, kind in sentence.entities}
        return Splits("Wikipedia NER", revision, "test", test, train=train, dev=dev, labels=tuple(sorted(types)))

    def head_settings(self, data: Splits) -> dict[str, Any]:
        """Two labels for each type, and one for what is no entity."""
        labels = _labels(data)
        return {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
        }

    def rows(
        self, tokenizer: PreTrainedTokenizerBase, data: Splits, examples: Sequence[Any], length: int
    ) -> list[Row]:
        """One input for each sentence; entities of what is cut off are not found."""
        before, after = special_tokens(tokenizer)
        index = {label: number for number, label in enumerate(_labels(data))}
        room = length - len(before) - len(after)
        found = []
        for place, example in enumerate(examples):
            ids, spans = with_spans(tokenizer, example.text)
            offsets = (*[None] * len(before), *spans[:room], *[None] * len(after))
            tags = token_tags(offsets, example.entities)
            inputs = {
                "input_ids": [*before, *ids[:room], *after],
                "attention_mask": [1] * len(offsets),
                "labels": [_IGNORED if tag is None else index[tag] for tag in tags],
            }
            found.append(Row(inputs, place, offsets))
        return found

    def predictions(self, rows: Sequence[Row], logits: Any, data: Splits, examples: Sequence[Any]) -> list[Any]:
        """Entities of each sentence, as lists of begin, end and type."""
        labels = _labels(data)
        found: list[list[Entity]] = [[] for _ in examples]
        for row, best in zip(rows, logits.argmax(-1), strict=True):
            tags = [None if span is None else labels[tag] for span, tag in zip(row.offsets, best, strict=False)]
            found[row.example] = entities(row.offsets, tags)
        return [[list(entity) for entity in of_text] for of_text in found]

    def gold(self, example: Any) -> Any:
        """Its entities, in the same form."""
        return [list(entity) for entity in example.entities]

    def scores(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float | None]:
        """F1, precision and recall of whole entities, by seqeval."""
        try:
            from seqeval.metrics import f1_score, precision_score, recall_score
        except ImportError as error:
            raise UsageError("ner needs seqeval: pip install 'llm-jp-modernbert[eval]'.") from error
        gold = [character_tags(example.text, example.entities) for example in examples]
        found = [character_tags(example.text, of_text) for example, of_text in zip(examples, predictions, strict=True)]
        measures = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
        return {name: float(measure(gold, found, zero_division=0)) for name, measure in measures.items()}

    def diagnostics(self, tokenizer: PreTrainedTokenizerBase, data: Splits, length: int) -> dict[str, float | None]:
        """F1 of perfect labels for the model's tokens."""
        perfect = [
            entities(row.offsets, token_tags(row.offsets, data.examples[row.example].entities))
            for row in self.rows(tokenizer, data, data.examples, length)
        ]
        return {"f1_ceiling": self.scores(data.examples, perfect)["f1"]}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Makes a batch; labels are padded, too."""
        from transformers import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(tokenizer, label_pad_token_id=_IGNORED)


def token_tags(offsets: Sequence[Span | None], found: Sequence[Entity]) -> list[str | None]:
    """IOB2 tags of tokens: of the first entity that a token shares a character with; None for what is not of the text.

    Args:
        offsets: spans of the tokens.
        found: entities in their order.
    """
    tags: list[str | None] = []
    open_entity: Entity | None = None
    for span in offsets:
        if span is None:
            tags.append(None)
            continue
        shared = next((entity for entity in found if entity[0] < span[1] and entity[1] > span[0]), None)
        if shared is None:
            tags.append("O")
        else:
            tags.append(f"{'I' if shared == open_entity else 'B'}-{shared[2]}")
        open_entity = shared
    return tags


def entities(offsets: Sequence[Span | None], tags: Sequence[str | None]) -> list[Entity]:
    """The entities that IOB2 tags of tokens mean; an `I` that continues nothing begins one."""
    found: list[Entity] = []
    continues = False
    for span, tag in zip(offsets, tags, strict=True):
        if span is None or tag is None:
            continue
        if tag == "O":
            continues = False
            continue
        kind = tag[2:]
        if continues and tag[0] == "I" and found[-1][2] == kind:
            found[-1] = (found[-1][0], max(found[-1][1], span[1]), kind)
        elif not found or span[0] >= found[-1][1]:
            found.append((*span, kind))
        # Else it is one more token of a character that the entity before ends with.
        continues = True
    return found


def character_tags(text: str, found: Sequence[Sequence[Any]]) -> list[str]:
    """IOB2 tags of characters."""
    tags = ["O"] * len(text)
    for begin, end, kind in found:
        tags[begin:end] = [f"I-{kind}"] * (end - begin)
        tags[begin] = f"B-{kind}"
    return tags


def _labels(data: Splits) -> list[str]:
    return ["O", *(f"{part}-{kind}" for kind in data.labels for part in "BI")]


def _sentences(path: Path) -> Iterator[tuple[str, Sentence]]:
    """Sentences of a file, each with what it is parted by."""
    try:
        rows = json.loads(read(path))
        if not isinstance(rows, list):
            raise ValueError("it is no list")
    except ValueError as error:
        raise UsageError(f"{path}: not a JSON list of sentences ({error}).") from error
    for number, row in enumerate(rows, start=1):
        try:
            text, marked = row["text"], row["entities"]
            spans = sorted((int(entity["span"][0]), int(entity["span"][1]), str(entity["type"])) for entity in marked)
            key = f"{row.get('curid', '')}{text}"
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"{path}, sentence {number}: not text, and entities with span and type ({error!r})."
            ) from None
        if not isinstance(text, str) or any(not 0 <= begin < end <= len(text) for begin, end, _ in spans):
            raise UsageError(f"{path}, sentence {number}: a span reaches out of its text.")
        if any(before[1] > after[0] for before, after in pairwise(spans)):
            raise UsageError(f"{path}, sentence {number}: two entities overlap.")
        yield key, Sentence(text, tuple(spans))
