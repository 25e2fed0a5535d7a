"""The models of the demo: those of the command line, and no others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import gradio as gr

from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.inference.encoder.encoder import Encoder, load_encoder
from llm_jp_modernbert.inference.encoder.torch_runner import TorchRunner
from llm_jp_modernbert.inference.heads import ENCODER, MASKED_LM
from llm_jp_modernbert.tokenization.spans import Span, special_tokens, with_spans

from .inputs import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """A tokenized text.

    Attributes:
        ids: ids with special tokens.
        spans: the span of each in the text; None for special tokens and whitespace.
        places: places of the tokens between the special ones.
    """

    ids: list[int]
    spans: list[Span | None]
    places: range


@dataclass(frozen=True)
class DemoModel:
    """A loaded model.

    Attributes:
        label: its name in the interface.
        encoder: the model and its tokenizer.
        runner: computes with torch.
        lock: held while the model or its tokenizer is in use, since several visitors share them.
    """

    label: str
    encoder: Encoder
    runner: TorchRunner
    lock: Lock = field(default_factory=Lock)

    @property
    def fills_masks(self) -> bool:
        """Whether the model predicts masked tokens."""
        return self.encoder.head == MASKED_LM and self.encoder.tokenizer.mask_token is not None

    @property
    def encodes(self) -> bool:
        """Whether the model gives vectors."""
        return self.encoder.head in (MASKED_LM, ENCODER)

    def tokenize(self, text: str) -> Tokens:
        """Splits a text into tokens; raises `InputError` if they are more than the model reads."""
        with self.lock:
            before, after = special_tokens(self.encoder.tokenizer)
            ids, spans = with_spans(self.encoder.tokenizer, text)
        count = len(before) + len(ids) + len(after)
        if count > self.encoder.max_length:
            raise InputError("too_many_tokens", count=count, limit=self.encoder.max_length)
        return Tokens(
            [*before, *ids, *after],
            [*(None for _ in before), *spans, *(None for _ in after)],
            range(len(before), len(before) + len(ids)),
        )


def load_models(names: Sequence[str]) -> list[DemoModel]:
    """Loads models with torch.

    Args:
        names: local paths, repositories, or `ORG/NAME@REVISION`.

    Raises:
        UsageError: a model cannot be loaded.
    """
    names = list(dict.fromkeys(names))
    # Visitors do not see where on this machine a model is, unless names would be equal.
    short = [Path(name).resolve().name if ModelReference.parse(name).is_local else name for name in names]
    labels = short if len(set(short)) == len(short) else names
    loaded = []
    for name, label in zip(names, labels, strict=True):
        logger.info("Loading %s", name)
        encoder = load_encoder(name, "torch")
        assert isinstance(encoder.runner, TorchRunner)
        loaded.append(DemoModel(label, encoder, encoder.runner))
    return loaded


def choose_model(models: Sequence[DemoModel], i18n: gr.I18n) -> gr.Dropdown:
    """The choice of a model, by label; hidden if there is only one."""
    labels = [model.label for model in models]
    return gr.Dropdown(labels, label=i18n("model"), visible=len(labels) > 1)


def model_named(models: Sequence[DemoModel], label: str) -> DemoModel:
    """The model with a label; Gradio refuses labels that are none of the choices."""
    return next(model for model in models if model.label == label)
