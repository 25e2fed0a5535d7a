"""An epoch of fine-tuning a classifier: tokens/s of real tokens, against transformers' Trainer with padded batches.

All candidates train on the same texts of mixed lengths, 32 per step, with AdamW. The peer reads them in random order,
and with `group_by_length`, which puts texts of similar lengths into a step.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from torch import nn
from transformers import (
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from llm_jp_modernbert import LlmJpModernBertForSequenceClassification
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.finetuning.head_task import ModelInput
from llm_jp_modernbert.training.finetuning.text import Classification
from llm_jp_modernbert.training.finetuning.trainer import TrainerSettings, tokens_at_once, train_model

from ..measure import OURS, Candidate, Case
from ..models import FIRST_WORD, Models, Shape

PEER, GROUPED = "transformers, padded", "transformers, padded, group_by_length"

_STEP = 32
_LABELS = ("no", "yes")


def cases(
    shape: Shape = "nano",
    texts: Annotated[int, typer.Option(help="Texts of an epoch.", min=_STEP)] = 512,
    shortest: Annotated[int, typer.Option(help="Tokens of the shortest text.", min=2)] = 16,
    longest: Annotated[int, typer.Option(help="Tokens of the longest text.", min=2)] = 256,
) -> Iterator[Case]:
    """Measure fine-tuning tokens/s on random texts of mixed lengths, against transformers with padding."""
    if shortest > longest:
        raise UsageError(f"--shortest {shortest}: more than --longest {longest}.")
    models = Models(shape)
    rows = _random_texts(models.config.vocab_size, texts, shortest, longest)
    ours = LlmJpModernBertForSequenceClassification(models.config)
    config: Any = ModernBertConfig(**models.config.to_dict())
    peer: Any = ModernBertForSequenceClassification(config)
    peer.load_state_dict(ours.state_dict())
    candidates: dict[str, Candidate] = {
        PEER: lambda turn: _train_padded(peer, rows if turn else rows[:_STEP], "random"),
        GROUPED: lambda turn: _train_padded(peer, rows if turn else rows[:_STEP], "group_by_length"),
        OURS: lambda turn: _train_packed(ours, rows if turn else rows[:_STEP]),
    }
    lengths = [row.tokens for row in rows]
    steps = [lengths[start : start + _STEP] for start in range(0, texts, _STEP)]
    padding = 1 - sum(lengths) / sum(len(step) * max(step) for step in steps)
    settings = {**models.settings, "texts": texts, "tokens": sum(lengths), "padding": f"{padding:.0%}"}
    yield Case("fine-tuning, an epoch of a classifier, float32", "tokens", PEER, candidates, settings)


def _random_texts(vocabulary: int, texts: int, shortest: int, longest: int) -> list[ModelInput]:
    """Inputs of random tokens whose lengths are evenly spread on a logarithmic scale."""
    drawn = random.Random(0)
    rows = []
    for place in range(texts):
        length = round(math.exp(drawn.uniform(math.log(shortest), math.log(longest))))
        ids = [drawn.randrange(FIRST_WORD, vocabulary) for _ in range(length)]
        rows.append(ModelInput({"input_ids": ids, "labels": place % len(_LABELS)}, place, length))
    return rows


def _arguments(folder: str, sampling: str) -> TrainingArguments:
    return TrainingArguments(
        folder,
        per_device_train_batch_size=_STEP,
        num_train_epochs=1,
        train_sampling_strategy=sampling,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _train_packed(model: Any, rows: list[ModelInput]) -> float:
    with TemporaryDirectory() as folder:
        arguments = _arguments(folder, "random")
        settings = TrainerSettings(tokens_at_once(arguments.device))
        # Packed batches need no tokenizer.
        tokenizer: Any = None
        train_model(copy.deepcopy(model), Classification(_LABELS), tokenizer, rows, [], [], arguments, settings)
    return float(sum(row.tokens for row in rows))


def _train_padded(model: Any, rows: list[ModelInput], sampling: str) -> float:
    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(inputs["input_ids"]) for inputs in batch]
        masks = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": nn.utils.rnn.pad_sequence(ids, batch_first=True),
            "attention_mask": nn.utils.rnn.pad_sequence(masks, batch_first=True),
            "labels": torch.tensor([inputs["labels"] for inputs in batch]),
        }

    with TemporaryDirectory() as folder:
        inputs: Any = [row.inputs for row in rows]
        trainer = Trainer(copy.deepcopy(model), _arguments(folder, sampling), collate, train_dataset=inputs)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return float(sum(row.tokens for row in rows))
