"""The largest batch of a recipe that fits into the memory of the GPU, by trial."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache

from llm_jp_modernbert.core.errors import UsageError

from . import assembly
from .data.read_ahead import on_device
from .recipe.arguments import PretrainingArguments
from .trainer import PretrainingTrainer

logger = logging.getLogger(__name__)

# The rest is for what a trial lacks: more masked tokens in some batches, and buffers for communication.
_SHARE_OF_MEMORY = 0.92


@dataclass(frozen=True)
class BatchSize:
    """How the rows of an optimizer step are divided into batches of a device.

    Attributes:
        most_rows: largest number of rows of a batch that fits into memory, at most those of a step.
        rows: number of rows of a batch: the largest one that fits and divides the rows of a step.
        accumulation: number of batches per step.
    """

    most_rows: int
    rows: int
    accumulation: int

    def keys(self, recipe: PretrainingArguments) -> dict[str, int]:
        """The keys that set this batch size in a recipe."""
        size = (
            {"per_device_train_batch_size": self.rows}
            if recipe.tokens_per_batch is None
            else {"tokens_per_batch": self.rows * recipe.sequence_length}
        )
        return {**size, "gradient_accumulation_steps": self.accumulation}


def find_batch_size(recipe: PretrainingArguments) -> BatchSize:
    """Finds the largest batch of a device, with the rows per step and device of the recipe.

    A trial takes an optimizer step of two batches of full rows, with all that a training step has in memory.

    Args:
        recipe: the recipe, for one process.

    Raises:
        UsageError: there are several processes, or not even a batch of one row fits.
    """
    if recipe.world_size > 1:
        raise UsageError("the largest batch is that of one GPU. Start a single process.")
    rows_per_step = recipe.rows_per_device_batch * recipe.gradient_accumulation_steps
    if recipe.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(_SHARE_OF_MEMORY, recipe.device)
    step = _step(recipe)

    def fits(rows: int) -> bool:
        try:
            step(rows)
        except torch.OutOfMemoryError:
            logger.info("  %s tokens do not fit", f"{rows * recipe.sequence_length:,}")
            return False
        logger.info("  %s tokens fit", f"{rows * recipe.sequence_length:,}")
        return True

    most = largest(fits, rows_per_step)
    if not most:
        raise UsageError(
            f"sequence_length: a batch of one row of {recipe.sequence_length:,} tokens does not fit into memory. "
            "Shorten it, or set gradient_checkpointing=true."
        )
    rows = max(rows for rows in range(1, most + 1) if rows_per_step % rows == 0)
    return BatchSize(most, rows, rows_per_step // rows)


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that fits, by doubling and bisection; 0 if none does."""
    low, high = 0, most + 1
    while high - low > 1:
        doubles = high > most and 2 * low <= most
        size = max(1, 2 * low) if doubles else (low + high) // 2
        if fits(size):
            low = size
        else:
            high = size
    return low


def _step(recipe: PretrainingArguments) -> Callable[[int], None]:
    """Makes a function that takes an optimizer step of two batches with a number of rows."""
    tokenizer = assembly.make_tokenizer(recipe)
    model = assembly.make_model(recipe, tokenizer)
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable(recipe.gradient_checkpointing_kwargs)
    assembly.set_up_layers(model, recipe)
    # Trainer creates its directory.
    with TemporaryDirectory() as folder:
        settings = replace(recipe, output_dir=folder, report_to=[])
        trainer = PretrainingTrainer(model, settings, assembly.make_stream(recipe, tokenizer))
    accelerator = trainer.accelerator
    prepared, optimizer = accelerator.prepare(model, trainer.create_optimizer())

    def step(rows: int) -> None:
        # Also what a trial without enough memory has left.
        prepared.zero_grad()
        clear_device_cache(garbage_collection=True)
        batch = on_device(_full_rows(recipe, rows, len(tokenizer)), recipe.device)
        items = torch.full((), float(len(batch["label_positions"])), device=recipe.device)
        # The second batch needs its memory while the gradients of the first one exist.
        for _ in range(2):
            trainer.training_step(prepared, batch, items)
        trainer.counter.losses.clear()
        accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
        optimizer.step()

    return step


def _full_rows(recipe: PretrainingArguments, rows: int, vocabulary: int) -> dict[str, Any]:
    """A batch of full rows, each one document of random tokens, with the masking rate of the recipe."""
    length = recipe.sequence_length
    generator = torch.Generator().manual_seed(recipe.seed)
    ids = torch.randint(vocabulary, (1, rows * length), generator=generator)
    is_predicted = torch.rand(ids.shape, generator=generator) < recipe.mlm_probability
    return {
        "input_ids": ids,
        "labels": ids.where(is_predicted, -100),
        "label_positions": is_predicted[0].nonzero().squeeze(1),
        "cu_seqlens": torch.arange(0, rows * length + 1, length, dtype=torch.int32),
        "max_seqlen": length,
    }
