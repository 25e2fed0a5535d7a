"""Named entity recognition: character spans, token tags, and scores of whole entities.

A token gets the type of the entity that it shares a character with, and predictions are converted back to characters
before scoring, so scores are comparable across tokenizers.

Tokens of whitespace, and the `▁` that a tokenizer inserts before a text, are learned as well: transformers' pipeline
for token classification reads the tags of all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.inference.heads import TOKEN_CLASSIFICATION
from llm_jp_modernbert.tokenization.spans import Span, special_tokens, with_spans

from .head_task import IGNORED, HeadTask, ModelInput, Prediction, softmax

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Entity = tuple[int, int, str]
"""Start, end (in characters) and type."""


@dataclass(frozen=True)
class Sentence:
    """A text and its entities, ordered and without overlaps."""

    text: str
    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class Ner(HeadTask[Sentence]):
    """Entities in texts; `labels` are IOB2 tags, see `tags_of`."""

    head = TOKEN_CLASSIFICATION
    metric = "f1"

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Sentence], length: int
    ) -> list[ModelInput]:
        """One input per text; entities in truncated text are lost."""
        before, after = special_tokens(tokenizer)
        room = length - len(before) - len(after)
        rows = []
        for place, example in enumerate(examples):
            ids, spans = with_spans(tokenizer, example.text)
            offsets = (*[None] * len(before), *spans[:room], *[None] * len(after))
            tags = [
                *[None] * len(before),
                *_with_whitespace(token_tags(spans[:room], example.entities)),
                *[None] * len(after),
            ]
            inputs = {
                "input_ids": [*before, *ids[:room], *after],
                "attention_mask": [1] * len(offsets),
                "labels": [IGNORED if tag is None else self.labels.index(tag) for tag in tags],
            }
            rows.append(ModelInput(inputs, place, len(before) + len(ids) + len(after), offsets))
        return rows

    def predict(
        self, inputs: Sequence[ModelInput], logits: Sequence[np.ndarray], examples: Sequence[Sentence]
    ) -> list[Prediction]:
        """Entities of each text, as lists of start, end and type; the confidence is that of the least sure token."""
        predicted = [Prediction([], 1.0)] * len(examples)
        for row, scores in zip(inputs, logits, strict=True):
            tags = [self.labels[tag] for tag in scores.argmax(-1)]
            value = [list(entity) for entity in entities(row.offsets, tags)]
            visible = np.array([span is not None for span in row.offsets])
            sure = softmax(scores).max(-1).min(where=visible, initial=1.0)
            predicted[row.example] = Prediction(value, float(sure))
        return predicted

    def gold(self, example: Sentence) -> Any:
        return [list(entity) for entity in example.entities]

    def scores(self, examples: Sequence[Sentence], predictions: Sequence[Any]) -> dict[str, float | None]:
        """F1, precision and recall of whole entities, computed by seqeval."""
        from seqeval.metrics import f1_score, precision_score, recall_score

        gold = [character_tags(example.text, example.entities) for example in examples]
        predicted = [
            character_tags(example.text, prediction) for example, prediction in zip(examples, predictions, strict=True)
        ]
        measures = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
        return {name: float(measure(gold, predicted, zero_division=0)) for name, measure in measures.items()}

    def error(self, example: Sentence, prediction: Prediction) -> float:
        return prediction.confidence if prediction.value != self.gold(example) else 0.0


def tags_of(types: Sequence[str]) -> tuple[str, ...]:
    """The IOB2 tags of entity types: `O`, and `B-` and `I-` for each type."""
    return ("O", *(f"{part}-{kind}" for kind in types for part in "BI"))


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


def _with_whitespace(tags: Sequence[str | None]) -> list[str]:
    """Tags that include those of whitespace: it belongs to an entity that goes on after it."""
    filled: list[str] = []
    following = "O"
    for tag in reversed(tags):
        following = tag or (following if following.startswith("I") else "O")
        filled.append(following)
    return filled[::-1]


def entities(offsets: Sequence[Span | None], tags: Sequence[str | None]) -> list[Entity]:
    """The entities that IOB2 tags of tokens describe; an `I` without a predecessor starts an entity.

    Args:
        offsets: spans of the tokens; None for whitespace, which only ends or continues an entity.
        tags: their tags; None for tokens without one.
    """
    decoded: list[Entity] = []
    continues = False
    for span, tag in zip(offsets, tags, strict=True):
        if tag is None:
            continue
        if span is None:
            continues = continues and tag == f"I-{decoded[-1][2]}"
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
