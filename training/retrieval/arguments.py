"""The `TrainingArguments` of retrieval training: defaults, and the keys that a user gives as `key=value`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.training_args import BaseTrainingArguments

from ..finetuning.arguments import CHOICES, UNSUPPORTED, WITHOUT_EFFECT, arguments_of
from ..recipe.arguments import LaunchedArguments
from .options import RetrievalOptions

_UNSUPPORTED = {
    **UNSUPPORTED,
    "prompts": "use --query-prompt and --passage-prompt",
    "router_mapping": "all texts are read by the same modules",
    "multi_dataset_batch_sampler": "repeated --train are one dataset",
    "label_smoothing_factor": "the losses of sentence-transformers have none",
    "remove_unused_columns": "columns are chosen by options such as --query-column",
    "use_liger_kernel": "batches are packed, and the losses are those of sentence-transformers",
    "neftune_noise_alpha": "models of sentence-transformers do not support it",
    "eval_on_start": "the report measures the base",
}

_CHOICES = {**CHOICES, "batch_sampler": ["batch_sampler", "no_duplicates"]}

_WITHOUT_EFFECT = WITHOUT_EFFECT | {"train_sampling_strategy"}


@dataclass
class RetrievalArguments(LaunchedArguments, BaseTrainingArguments):
    """`TrainingArguments` of sentence-transformers with the defaults of retrieval training."""

    learning_rate: float = 5e-5
    num_train_epochs: float = 3
    per_device_train_batch_size: int = 128
    warmup_steps: float = 0.1
    weight_decay: float = 0.01
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 1
    logging_steps: float = 0.02
    logging_nan_inf_filter: bool = False
    remove_unused_columns: bool = False
    report_to: str | list[str] | None = "none"
    disable_tqdm: bool | None = True
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)


def retrieval_arguments(
    options: RetrievalOptions, output_dir: Path, seed: int, defaults: Mapping[str, Any] | None = None
) -> RetrievalArguments:
    """The arguments of one training.

    Args:
        options: options of the command; `overrides` are `key=value` with YAML values.
        output_dir: directory of the checkpoints.
        seed: seed of this training.
        defaults: defaults that depend on the type of model and the data.

    Raises:
        UsageError: a key is unknown, not supported or invalid.

    Example:
        >>> retrieval_arguments(EmbedderOptions("my-model", ["learning_rate=3e-5"]), Path("run"), seed=42)
    """
    return arguments_of(
        RetrievalArguments,
        options.overrides,
        output_dir,
        seed,
        defaults or {},
        _UNSUPPORTED,
        _CHOICES,
        _WITHOUT_EFFECT,
    )
