"""The models of the demo: those of the command line, and no others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.inference.encoder.encoder import Encoder, load_encoder
from llm_jp_modernbert.inference.heads import ENCODER, MASKED_LM

from .inputs import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoModel:
    """A loaded model.

    Attributes:
        label: its name in the interface.
        encoder: the model and its tokenizer.
        lock: held while the model or its tokenizer is in use, since several visitors share them.
    """

    label: str
    encoder: Encoder
    lock: Lock = field(default_factory=Lock)

    @property
    def fills_masks(self) -> bool:
        """Whether the model predicts masked tokens."""
        return self.encoder.head == MASKED_LM and self.encoder.tokenizer.mask_token is not None

    @property
    def encodes(self) -> bool:
        """Whether the model gives vectors."""
        return self.encoder.head in (MASKED_LM, ENCODER)

    def check_length(self, tokens: int) -> None:
        """Raises `InputError` if a text has more tokens than the model reads, special tokens included."""
        if tokens > self.encoder.max_length:
            raise InputError("too_many_tokens", count=tokens, limit=self.encoder.max_length)


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
        loaded.append(DemoModel(label, load_encoder(name, "torch")))
    return loaded
