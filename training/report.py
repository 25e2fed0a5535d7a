"""The lines that a run logs at its start and at its end; none is wider than 80 columns unless a path is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llm_jp_modernbert.core.files import read_json
from llm_jp_modernbert.modeling.attention_backends import choose_backends

from . import compiling
from .data.manifest import MANIFEST
from .data.order import FileShard, Source
from .data.readers import Document
from .recipe.arguments import ATTENTION_LAYERS

# Number of bytes that are read in less than a second.
_MAX_COUNTED = 8_000_000

if TYPE_CHECKING:
    from .trainer import PretrainingTrainer


def start_lines(trainer: PretrainingTrainer) -> list[str]:
    """Model, device, data and length of a run."""
    recipe, model = trainer.recipe, trainer.model
    config: Any = model.config
    dtype = torch.bfloat16 if recipe.bf16 else torch.float16 if recipe.fp16 else torch.float32
    head_dim = config.hidden_size // config.num_attention_heads
    chosen = choose_backends(
        config._attn_implementation,
        ATTENTION_LAYERS.values(),
        recipe.device,
        dtype,
        head_dim,
        float(config.attention_dropout),
    )
    names = {kind: chosen[layer_type] for kind, layer_type in ATTENTION_LAYERS.items()}
    is_same = len(set(names.values())) == 1
    attention = names["global"] if is_same else ", ".join(f"{name} ({kind})" for kind, name in names.items())
    data = [f"  train_data: {describe_data(trainer.stream.maker.sources)}"]
    if trainer.validation is not None:
        corpus = trainer.validation.corpus
        data.append(f"  validation_data: {counted(len(corpus), 'document')}, {len(corpus.ids):,} tokens")
    limits = {
        "steps": recipe.max_steps if recipe.max_steps > 0 else None,
        "tokens": recipe.max_tokens,
        "minutes": recipe.max_minutes,
    }
    ends = " or ".join(f"{value:,} {name}" for name, value in limits.items() if value is not None)
    return [
        f"{recipe.stage}: {model.num_parameters():,} parameters, {counted(config.num_hidden_layers, 'layer')} "
        f"of width {config.hidden_size}, {str(dtype).removeprefix('torch.')}",
        f"  {device_line(recipe.device, recipe.world_size)}, attention: {attention}",
        *data,
        f"  {counted(recipe.rows_per_step, 'row')} of {recipe.sequence_length:,} tokens per step, until {ends}",
        *compiling.start_lines(recipe),
    ]


def end_lines(trainer: PretrainingTrainer, run: Path) -> list[str]:
    """Counts, speed, losses and place of a trained model."""
    totals, log = trainer.totals, trainer.state.log_history
    rate = totals.tokens / max(1e-9, totals.seconds)
    losses = {
        "loss": _last(log, "loss", ".3f"),
        "held-out loss": _last(log, "eval_loss", ".3f"),
        "held-out accuracy": _last(log, "eval_masked_accuracy", ".1%"),
    }
    skipped = {
        "broken rows": totals.broken_rows,
        "blank rows": totals.blank_rows,
        "tokens beyond the sequence length": totals.truncated_tokens,
        "steps with a non-finite loss": totals.skipped_steps,
    }
    lines = {
        "": ", ".join(f"{name} {value}" for name, value in losses.items() if value is not None),
        "skipped: ": ", ".join(f"{count:,.0f} {name}" for name, count in skipped.items() if count),
    }
    return [
        f"{trainer.recipe.stage}: {counted(trainer.state.global_step, 'step')}, {totals.tokens:,.0f} tokens of "
        f"{counted(int(totals.documents), 'document')} in {timedelta(seconds=round(totals.seconds))}",
        f"  {rate:,.0f} tokens/s, packing efficiency {totals.packing_efficiency:.1%}",
        *(f"  {start}{text}" for start, text in lines.items() if text),
        f"  The model is in {run}",
    ]


def describe_data(sources: Sequence[Source]) -> str:
    """The number of files and their size, and documents where counting them is fast.

    The manifests of tokenized corpora count documents and tokens; small files are read.
    """
    pairs = [(source, shard) for source in sources for shard in source.shards]
    files = [Path(shard.name) for _, shard in pairs if isinstance(shard, FileShard)]
    text = counted(len(pairs), "file")
    if len(files) < len(pairs):
        return text
    if all(file.suffix == ".arrow" for file in files):
        manifests = {file.parent.parent / MANIFEST for file in files}
        if all(path.is_file() for path in manifests):
            totals = [read_json(path, dict[str, Any])["totals"] for path in manifests]
            documents, tokens = (sum(total[name] for total in totals) for name in ("documents", "tokens"))
            return f"{text}, {counted(documents, 'document')}, {tokens:,} tokens"
    size = sum(file.stat().st_size for file in files)
    text = f"{text}, {_size(size)}"
    if size > _MAX_COUNTED:
        return text
    rows = ((source, row) for source, shard in pairs for row in shard.read(0))
    documents = sum(isinstance(row, Document) and source.accepts(row) for source, row in rows)
    return f"{text}, {counted(documents, 'document')}"


def device_line(device: torch.device, processes: int) -> str:
    """Number of processes and the device of each, for example `1 process on CPU (2 cores)`."""
    if device.type == "cpu":
        return f"{counted(processes, 'process')} on CPU ({counted(os.cpu_count() or 1, 'core')})"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{counted(processes, 'process')} on {name}"


def counted(number: int, noun: str) -> str:
    """A number with its noun in the singular or plural, for example `1,024 tokens`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _last(log: Sequence[dict[str, float]], key: str, form: str) -> str | None:
    return next((format(entry[key], form) for entry in reversed(log) if key in entry), None)
