"""The heads of ModernBERT models, as named in `architectures` of config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_jp_modernbert.core.errors import UsageError


@dataclass(frozen=True)
class Head:
    """The part of a model after the encoder.

    Attributes:
        name: what a model with this head is called in messages.
        suffix: end of its class name in transformers and in this package.
        auto_class: class of transformers that loads it.
        pipeline_tag: its task on the Hub (huggingface.co/tasks).
        outputs: fields of the model's output, apart from the loss.
        pools: whether the outputs are per text instead of per token.
    """

    name: str
    suffix: str
    auto_class: str
    pipeline_tag: str
    outputs: tuple[str, ...] = ("logits",)
    pools: bool = False


MASKED_LM = Head("masked language model", "ForMaskedLM", "AutoModelForMaskedLM", "fill-mask")
SEQUENCE_CLASSIFICATION = Head(
    "sequence classification model",
    "ForSequenceClassification",
    "AutoModelForSequenceClassification",
    "text-classification",
    pools=True,
)
TOKEN_CLASSIFICATION = Head(
    "token classification model", "ForTokenClassification", "AutoModelForTokenClassification", "token-classification"
)
QUESTION_ANSWERING = Head(
    "question answering model",
    "ForQuestionAnswering",
    "AutoModelForQuestionAnswering",
    "question-answering",
    ("start_logits", "end_logits"),
)
MULTIPLE_CHOICE = Head(
    "multiple choice model", "ForMultipleChoice", "AutoModelForMultipleChoice", "multiple-choice", pools=True
)
ENCODER = Head("encoder", "Model", "AutoModel", "feature-extraction", ("last_hidden_state",))

HEADS = (MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING, MULTIPLE_CHOICE, ENCODER)


def head_of(config: Mapping[str, Any]) -> Head:
    """The head of a model.

    Args:
        config: content of its config.json.

    Raises:
        UsageError: `architectures` is missing or names no head of a ModernBERT model.
    """
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    for head in HEADS:
        if isinstance(name, str) and name.endswith(head.suffix):
            return head
    known = ", ".join(f"ModernBert{head.suffix}" for head in HEADS)
    raise UsageError(f"config.json: architectures {names!r} names no known head. Known: {known}.")
