"""Named entity recognition on Stockmark's Wikipedia sentences, scored by characters.

Entities are character spans. A token gets the type of the entity that it shares a character with, and predictions are
converted back to characters before scoring, so scores are comparable across tokenizers. `f1_ceiling` is the F1 of
perfect token labels: the rest is lost by tokens that cross an entity boundary.

The data have no official splits. By a hash of each sentence, eight of ten train, one selects the grid point, and one
is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import NotRequired, TypedDict

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import parse_json
from llm_jp_modernbert.core.text_files import read_text
from llm_jp_modernbert.tokenization.spans import Span, special_tokens, with_spans

from ..data.readers import find, fingerprint, hub_files
from .finetuning import FineTuning, Row, Splits, bucket

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REPOSITORY = "stockmark/ner-wikipedia-dataset"
_IGNORED = -100

Entity = tuple[int, int, str]
"""Start, end (in characters) and type."""


@dataclass(frozen=True)
class Sentence:
    """A text and its entities, ordered and without overlaps."""

    text: str
    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class Ner(FineTuning):
    """The same splits in both protocols."""

    name = "ner"
    hub_task = "token-classification"
    head = "AutoModelForTokenClassification"
    collator = "DataCollatorForTokenClassification"
    metric = "f1"

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
        labels = ("O", *(f"{part}-{kind}" for kind in sorted(types) for part in "BI"))
        return Splits("Wikipedia NER", revision, "test", test, train=train, dev=dev, labels=labels)

    def rows(
        self, tokenizer: PreTrainedTokenizerBase, data: Splits, examples: Sequence[Any], length: int
    ) -> list[Row]:
        """One input per sentence; entities in truncated text are lost."""
        before, after = special_tokens(tokenizer)
        room = length - len(before) - len(after)
        rows = []
        for place, example in enumerate(examples):
            ids, spans = with_spans(tokenizer, example.text)
            offsets = (*[None] * len(before), *spans[:room], *[None] * len(after))
            tags = token_tags(offsets, example.entities)
            inputs = {
                "input_ids": [*before, *ids[:room], *after],
                "attention_mask": [1] * len(offsets),
                "labels": [_IGNORED if tag is None else data.labels.index(tag) for tag in tags],
            }
            rows.append(Row(inputs, place, offsets))
        return rows

    def predictions(self, rows: Sequence[Row], logits: Any, data: Splits, examples: Sequence[Any]) -> list[Any]:
        """Entities of each sentence, as lists of start, end and type."""
        predicted: list[list[Entity]] = [[] for _ in examples]
        for row, best in zip(rows, logits.argmax(-1), strict=True):
            tags = [None if span is None else data.labels[tag] for span, tag in zip(row.offsets, best, strict=False)]
            predicted[row.example] = entities(row.offsets, tags)
        return [[list(entity) for entity in sentence] for sentence in predicted]

    def gold(self, example: Any) -> Any:
        return [list(entity) for entity in example.entities]

    def scores(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float | None]:
        """F1, precision and recall of whole entities, computed by seqeval."""
        try:
            from seqeval.metrics import f1_score, precision_score, recall_score
        except ImportError as error:
            raise UsageError("ner needs seqeval: pip install 'llm-jp-modernbert[eval]'.") from error
        gold = [character_tags(example.text, example.entities) for example in examples]
        predicted = [
            character_tags(example.text, prediction) for example, prediction in zip(examples, predictions, strict=True)
        ]
        measures = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
        return {name: float(measure(gold, predicted, zero_division=0)) for name, measure in measures.items()}

    def diagnostics(self, tokenizer: PreTrainedTokenizerBase, data: Splits, length: int) -> dict[str, float | None]:
        perfect = [
            entities(row.offsets, token_tags(row.offsets, data.examples[row.example].entities))
            for row in self.rows(tokenizer, data, data.examples, length)
        ]
        return {"f1_ceiling": self.scores(data.examples, perfect)["f1"]}


def token_tags(offsets: Sequence[Span | None], annotated: Sequence[Entity]) -> list[str | None]:
    """IOB2 tags of tokens: a token belongs to the first entity that it shares a character with.

    Args:
        offsets: spans of the tokens; None for tokens outside the text, which get no tag.
        annotated: entities in order.
    """
    tags: list[str | None] = []
    open_entity: Entity | None = None
    for span in offsets:
        if span is None:
            tags.append(None)
            continue
        shared = next((entity for entity in annotated if entity[0] < span[1] and entity[1] > span[0]), None)
        if shared is None:
            tags.append("O")
        else:
            tags.append(f"{'I' if shared == open_entity else 'B'}-{shared[2]}")
        open_entity = shared
    return tags


def entities(offsets: Sequence[Span | None], tags: Sequence[str | None]) -> list[Entity]:
    """The entities that IOB2 tags of tokens describe; an `I` without a predecessor starts an entity."""
    decoded: list[Entity] = []
    continues = False
    for span, tag in zip(offsets, tags, strict=True):
        if span is None or tag is None:
            continue
        if tag == "O":
            continues = False
            continue
        kind = tag[2:]
        if continues and tag[0] == "I" and decoded[-1][2] == kind:
            decoded[-1] = (decoded[-1][0], max(decoded[-1][1], span[1]), kind)
        elif not decoded or span[0] >= decoded[-1][1]:
            decoded.append((*span, kind))
        # Otherwise the token is another byte of the previous entity's last character.
        continues = True
    return decoded


def character_tags(text: str, spans: Sequence[Sequence[Any]]) -> list[str]:
    """IOB2 tags of characters."""
    tags = ["O"] * len(text)
    for begin, end, kind in spans:
        tags[begin:end] = [f"I-{kind}"] * (end - begin)
        tags[begin] = f"B-{kind}"
    return tags


class _Entity(TypedDict):
    span: tuple[int, int]
    type: str


class _Row(TypedDict):
    text: str
    entities: list[_Entity]
    curid: NotRequired[str | int | None]


def _sentences(path: Path) -> Iterator[tuple[str, Sentence]]:
    """Sentences of a file, each with the key of its split."""
    rows: list[_Row] = parse_json(read_text(path), f"{path}: not a JSON list of sentences", list[_Row])
    for number, row in enumerate(rows, start=1):
        text = row["text"]
        spans = sorted((*entity["span"], entity["type"]) for entity in row["entities"])
        if any(not 0 <= begin < end <= len(text) for begin, end, _ in spans):
            raise UsageError(f"{path}, sentence {number}: a span exceeds its text.")
        if any(before[1] > after[0] for before, after in pairwise(spans)):
            raise UsageError(f"{path}, sentence {number}: two entities overlap.")
        yield f"{row.get('curid', '')}{text}", Sentence(text, tuple(spans))
