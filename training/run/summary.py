"""What training knows of itself, as plain values for a model card: `training.json`.

It stands in every checkpoint and beside the final model: one entry for each stage that the model went through. Local
directories are no part of it.
"""

from __future__ import annotations

import csv
import glob
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from transformers import TrainerState, TrainingArguments

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.versions import library_versions
from llm_jp_modernbert.inference.loading import split_revision

from ..recipe.arguments import PretrainingArguments
from ..recipe.loading import decisive
from .totals import Totals

FILE = "training.json"

SCHEMA = 1
"""Version of the file's schema."""

EMISSIONS = "emissions.csv"
"""What transformers' CodeCarbonCallback leaves in the run's directory."""

# Of transformers' keys those that a card shows; of the recipe's own all but the names of places.
_SHOWN = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "bf16", "fp16", "torch_compile", "seed"),
)
_PLACES = ("stage", "init_from", "tokenizer", "train_data")
_LIBRARIES = ("llm-jp-modernbert", "torch", "transformers", "accelerate", "tokenizers", "datasets")
_CURVE = ("tokens", "loss", "learning_rate", "eval_loss", "eval_masked_accuracy", "eval_baseline_accuracy")
# So many points show a curve; held-out figures and probes are few and all kept.
_POINTS = 1000


def earlier_stages(arguments: PretrainingArguments, checkpoint: Path | None) -> list[dict[str, Any]]:
    """The stages that the model went through before this run.

    Args:
        arguments: the recipe; the model of its `init_from` may know of stages.
        checkpoint: of this run, where it goes on; it knows them even when `init_from` is there no more.

    Raises:
        UsageError: what stands there is no such file.
    """
    if checkpoint is not None:
        return read(checkpoint / FILE)["stages"][:-1] if (checkpoint / FILE).is_file() else []
    if not arguments.init_from:
        return []
    name, revision = split_revision(arguments.init_from)
    if os.path.isdir(name):
        found = Path(name) / FILE
    else:
        try:
            found = Path(hf_hub_download(name, FILE, revision=revision))
        except (HFValidationError, OSError):
            # A model from elsewhere has none; whether it can be had at all is told where it is loaded.
            return []
    return read(found)["stages"] if found.is_file() else []


def read(path: Path) -> dict[str, Any]:
    """The content of a `training.json`.

    Raises:
        UsageError: it is none, or of another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA or not all(isinstance(stage, dict) for stage in content["stages"]):
            raise ValueError(f"schema {content['schema']}, and this version reads {SCHEMA}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: no account of a training ({error}). Remove it, or take it from the run.") from error
    return content


def write(stages: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Writes what is known at this moment.

    Args:
        stages: those before this run, and this one's.
        folder: of a checkpoint or model.
    """
    content = {"schema": SCHEMA, "stages": list(stages)}
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def stage_of(
    arguments: PretrainingArguments, totals: Totals, state: TrainerState, max_steps: int | None
) -> dict[str, Any]:
    """The entry of the stage that a run trains.

    Args:
        arguments: its recipe.
        totals: what it has read.
        state: the trainer's.
        max_steps: where a number of steps ends the run.

    Returns:
        `steps` taken and `max_steps`, where a number of steps ends the run; `tokens`, `padded_tokens`, `labels`,
        `documents` and `characters` as in `Totals`; `rows_per_step`, of all devices; `seconds` of training; `flops`;
        `hardware`; `versions` of libraries; `data` with weights; the keys of the `recipe` that decide; the `curve` as
        lists of equal length, None where a step has no such figure; `emissions_kg` of CO2, where it was measured.
    """
    counts = ("tokens", "padded_tokens", "labels", "documents", "characters")
    emissions = emissions_of(Path(arguments.output_dir) / EMISSIONS)
    return {
        "stage": arguments.stage,
        "steps": state.global_step,
        "max_steps": max_steps,
        **{name: int(getattr(totals, name)) for name in counts},
        "rows_per_step": arguments.rows_per_step,
        "seconds": round(totals.seconds, 1),
        "flops": totals.flops,
        "hardware": hardware(arguments.world_size, arguments.device.type),
        "versions": library_versions(_LIBRARIES),
        "data": data_names(arguments.train_data),
        "recipe": _recipe(arguments),
        **({} if emissions is None else {"emissions_kg": emissions}),
        "curve": curve(state.log_history),
    }


def hardware(devices: int, kind: str) -> dict[str, Any]:
    """What the run computes on; of a CPU only how many cores it has.

    Args:
        devices: processes, each of which has one device.
        kind: the device's type, as torch names it.
    """
    if kind == "cpu":
        return {"device": "CPU", "devices": devices, "cores": os.cpu_count()}
    return {"device": torch.cuda.get_device_name() if kind == "cuda" else kind, "devices": devices}


def _recipe(arguments: PretrainingArguments) -> dict[str, Any]:
    own = set(PretrainingArguments.__annotations__) - set(TrainingArguments.__dataclass_fields__)
    kept = (own | set(_SHOWN)) - set(_PLACES)
    return {key: value for key, value in decisive(arguments).items() if key in kept and value is not None}


def data_names(data: Any) -> list[dict[str, Any]]:
    """The sources of a recipe's `train_data` by name, with their weight: of a path its last part alone."""
    listed = [data] if isinstance(data, (str, dict)) else list(data or [])
    entries = [{"path": entry} if isinstance(entry, str) else entry for entry in listed]
    kept = {"name": "config", "split": "split", "revision": "revision", "weight": "weight"}
    return [
        {"name": _name(str(entry["path"])), **{name: entry[key] for key, name in kept.items() if key in entry}}
        for entry in entries
    ]


def _name(path: str) -> str:
    local = Path(path).expanduser().exists() or bool(glob.glob(path, recursive=True)) or path.count("/") > 1
    return path.rstrip("/").rsplit("/", 1)[-1] if local or path.startswith((".", "/", "~")) else path


def curve(log: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The log of a run as columns; see `stage_of`.

    Args:
        log: `log_history` of the trainer's state.
    """
    steps: dict[int, dict[str, float]] = {}
    for entry in log:
        figures = {
            key: value
            for key, value in entry.items()
            if (key in _CURVE or key.startswith("probe_")) and _finite(value)
        }
        if figures:
            steps.setdefault(int(entry["step"]), {}).update(figures)
    thinned = math.ceil(len(steps) / _POINTS) or 1
    kept = {
        step: figures
        for number, (step, figures) in enumerate(sorted(steps.items()))
        if number % thinned == 0 or any(key.startswith(("eval_", "probe_")) for key in figures)
    }
    names = dict.fromkeys([*_CURVE, *sorted(key for figures in kept.values() for key in figures)])
    columns = {name: [figures.get(name) for figures in kept.values()] for name in names}
    return {
        "step": list(kept),
        **{name: values for name, values in columns.items() if any(v is not None for v in values)},
    }


def emissions_of(path: Path) -> float | None:
    """Kilograms of CO2 equivalent that codecarbon has measured, over all parts of a run; None where it has not.

    codecarbon adds a line each time it writes, with what its tracker has counted since it began.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            by_part = {row["run_id"]: float(row["emissions"]) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return sum(by_part.values()) if by_part else None


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
