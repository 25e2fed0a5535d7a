"""Layout of named entity recognition: texts with spans, or tokens with tags."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Any

from llm_jp_modernbert.tokenization.spans import strip

from ..ner import Entity, Ner, Sentence, tags_of
from .conll import TAG
from .layout import TEXT_NAMES, Layout, as_list, shortened, text_of
from .tables import Row, cell
from .texts import label_name

_ENTITY_NAMES = ("entities", "spans", "ner_tags", "tags", "labels", "label", "ner")
_TOKEN_NAMES = ("tokens", "words")
# Other names of the last and of the only token of an entity.
_BIOES = str.maketrans("LU", "ES")
# Characters of Latin script, below this code point, are joined with spaces.
_LATIN_END = 0x250


class EntityLayout(Layout):
    """Texts with spans in characters, or lists of tokens with their tags.

    A span is `[start, end, label]`, or an object with `start` and `end`, `start_offset` and `end_offset`, or `span`,
    and with `label` or `type`. Tags are BIO, IOB1, BIOES or BILOU.
    """

    roles = ("text", "label")

    def find_columns(self) -> None:
        label = self.require("label", _ENTITY_NAMES)
        values = (as_list(cell(row, label)) for _, row in self.table.rows)
        first = next((items[0] for items in values if items), None)
        self.are_tags = isinstance(first, (str, int))
        names = (*_TOKEN_NAMES, *TEXT_NAMES) if self.are_tags else TEXT_NAMES
        self.columns = {"text": self.require("text", names), "label": label}

    def parse(self, row: Row) -> Sentence:
        column = self.columns["label"]
        items = as_list(cell(row, column))
        if items is None:
            raise ValueError(f"{column!r} is {shortened(cell(row, column))}, not a list. Write [] for no entity")
        if self.are_tags:
            return _tagged(row, self.columns["text"], items)
        return sentence_of(text_of(row, self.columns["text"]), items)

    def task(self, examples: Sequence[Sentence]) -> Ner:
        types = {label for example in examples for label in self.labels(example)}
        if not types:
            raise ValueError(f"none of the {len(examples)} texts has an entity")
        return Ner(tags_of(sorted(types)))

    def labels(self, example: Sentence) -> tuple[str, ...]:
        return tuple(dict.fromkeys(kind for *_, kind in example.entities))

    def key(self, example: Sentence) -> Hashable:
        return example.text


def sentence_of(text: str, spans: list[Any]) -> Sentence:
    """A text with entities.

    Raises:
        ValueError: a span is in none of the forms of `EntityLayout`, exceeds the text, or overlaps another one.
    """
    entities = sorted(_entity(item, text) for item in spans)
    for before, after in pairwise(entities):
        if before[1] > after[0]:
            raise ValueError(f"the entities {list(before)} and {list(after)} overlap")
    return Sentence(text, tuple(entities))


def _entity(item: Any, text: str) -> Entity:
    """The entity that a span describes, without surrounding white space."""
    if isinstance(item, dict):
        span = item.get("span") or [_first(item, "start", "start_offset"), _first(item, "end", "end_offset")]
        parts = [*(span if isinstance(span, list) else ()), _first(item, "label", "type")]
    else:
        parts = item if isinstance(item, list) else []
    if len(parts) != 3 or not all(isinstance(part, int) and not isinstance(part, bool) for part in parts[:2]):
        raise ValueError(f"the entity {shortened(item)} is not [start, end, label]")
    begin, end, label = parts
    if not 0 <= begin <= end <= len(text):
        raise ValueError(f"the entity {shortened(item)} exceeds the text, which has {len(text):,} characters")
    span = strip(text, (begin, end))
    if span is None:
        raise ValueError(f"the entity {shortened(item)} has no characters")
    name = _first(item, "text", "name") if isinstance(item, dict) else None
    if isinstance(name, str) and name.strip() != text[slice(*span)]:
        raise ValueError(f"the entity {shortened(item)} is {text[slice(*span)]!r} in the text. Count in characters")
    return (*span, label_name(label, "label"))


def _first(item: dict[str, Any], *keys: str) -> Any:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _tagged(row: Row, column: str, tags: list[Any]) -> Sentence:
    """Joins tokens: without spaces, except between two tokens in Latin script."""
    from seqeval.metrics.sequence_labeling import get_entities

    tokens = as_list(cell(row, column))
    if not tokens or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"{column!r} is {shortened(tokens)}, not a list of tokens")
    if len(tags) != len(tokens):
        raise ValueError(f"has {len(tokens)} tokens, but {len(tags)} tags")
    for number, (token, tag) in enumerate(zip(tokens, tags, strict=True), start=1):
        if not isinstance(tag, str) or not TAG.fullmatch(tag):
            raise ValueError(f"the tag {shortened(tag)} of token {number} ({shortened(token)}) is not O, B-… or I-…")
    text, spans = "", []
    for token in tokens:
        if text and token and _is_latin(text[-1]) and _is_latin(token[0]):
            text += " "
        spans.append((len(text), len(text) + len(token)))
        text += token
    if not text.strip():
        raise ValueError(f"{column!r} is empty. Remove the row, or write its text")
    found = get_entities([tag[0].translate(_BIOES) + tag[1:] for tag in tags])
    # Tokens may be empty or have surrounding white space.
    stripped = [(strip(text, (spans[first][0], spans[last][1])), kind) for kind, first, last in found]
    return Sentence(text, tuple((*span, kind) for span, kind in stripped if span is not None))


def _is_latin(character: str) -> bool:
    return character.isalnum() and ord(character) < _LATIN_END
