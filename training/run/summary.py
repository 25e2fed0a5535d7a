"""The summary of a model's training in `training.json`, which model cards are made from.

Every checkpoint and every trained model contains the file, with one entry per training stage. It contains no local
paths.
"""

from __future__ import annotations

import csv
import glob
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from pydantic import ConfigDict, with_config
from transformers import TrainerState, TrainingArguments
from typing_extensions import NotRequired, TypedDict

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json
from llm_jp_modernbert.core.hub import TRAINING
from llm_jp_modernbert.core.references import ModelReference, is_local_path
from llm_jp_modernbert.core.versions import library_versions

from ..recipe.arguments import PretrainingArguments
from ..recipe.loading import decisive
from .totals import Totals

SCHEMA = 1
"""Version of the file's schema."""


class Data(TypedDict):
    """A source of the training data."""

    name: str
    config: NotRequired[str]
    split: NotRequired[str]
    revision: NotRequired[str]
    weight: NotRequired[float]


class Hardware(TypedDict):
    """Name and number of devices; for a CPU also its cores."""

    device: str
    devices: int
    cores: NotRequired[int | None]


@with_config(ConfigDict(extra="allow"))
class Schedule(TypedDict):
    """The arguments of a learning-rate schedule that model cards show."""

    num_decay_steps: NotRequired[float | None]


@with_config(ConfigDict(extra="allow"))
class Recipe(TypedDict):
    """The keys of a recipe that model cards show; all others are kept."""

    sequence_length: NotRequired[int]
    packing: NotRequired[str]
    long_documents: NotRequired[str]
    init_embeddings: NotRequired[str]
    mlm_probability: NotRequired[float]
    final_mlm_probability: NotRequired[float | None]
    mask_share: NotRequired[float]
    random_share: NotRequired[float]
    learning_rate: NotRequired[float]
    lr_scheduler_kwargs: NotRequired[Schedule | None]
    warmup_steps: NotRequired[float]


class Stage(TypedDict):
    """A training stage; see `stage_of`."""

    stage: str
    init_from: NotRequired[str | None]
    steps: int
    max_steps: int | None
    tokens: int | None
    padded_tokens: NotRequired[int]
    labels: NotRequired[int]
    documents: NotRequired[int]
    characters: NotRequired[int]
    rows_per_step: NotRequired[int | None]
    seconds: NotRequired[float]
    flops: NotRequired[float]
    hardware: NotRequired[Hardware | None]
    versions: NotRequired[dict[str, str]]
    data: list[Data]
    recipe: Recipe
    emissions_kg: NotRequired[float]
    curve: NotRequired[dict[str, list[float | None]]]


class Summary(TypedDict):
    """The content of `training.json`."""

    schema: int
    stages: list[Stage]


EMISSIONS = "emissions.csv"
"""The file that transformers' CodeCarbonCallback writes into the run directory."""

# The keys of transformers' TrainingArguments that a card shows, in addition to all our own keys that name no path.
_SHOWN = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "bf16", "fp16", "torch_compile", "seed"),
)
_PLACES = ("stage", "init_from", "tokenizer", "train_data", "exclude_data")
_LIBRARIES = ("llm-jp-modernbert", "torch", "transformers", "accelerate", "tokenizers", "datasets")
_CURVE = ("tokens", "loss", "learning_rate", "eval_loss", "eval_masked_accuracy", "eval_baseline_accuracy")
# Maximum number of training losses in a curve. Evaluations and probes are few, so all are kept.
_POINTS = 1000


def earlier_stages(recipe: PretrainingArguments, checkpoint: Path | None) -> list[Stage]:
    """The training stages of the model before this run.

    Args:
        recipe: the recipe. The model in its `init_from` may have a summary of earlier stages.
        checkpoint: the checkpoint that the run resumes from, which contains the same stages.

    Raises:
        UsageError: the file is invalid.
    """
    if checkpoint is not None:
        return read(checkpoint / TRAINING)["stages"][:-1] if (checkpoint / TRAINING).is_file() else []
    return stages_of(recipe.init_from) if recipe.init_from else []


def stages_of(model: str) -> list[Stage]:
    """The training stages of a model, by its directory or repository; empty if it has no `training.json`.

    Raises:
        UsageError: the file is invalid.
    """
    source = ModelReference.parse(model)
    if source.is_local:
        path = source.path / TRAINING
    else:
        try:
            path = Path(hf_hub_download(source.name, TRAINING, revision=source.revision))
        except (HFValidationError, OSError):
            # Other models have no summary. Loading the model reports an unknown repository.
            return []
    return read(path)["stages"] if path.is_file() else []


def read(path: Path) -> Summary:
    """Reads a `training.json`.

    Raises:
        UsageError: the file is invalid or has an unsupported schema.
    """
    try:
        content: Summary = read_json(path, Summary)
        if content["schema"] != SCHEMA:
            raise UsageError(f"{path}: schema {content['schema']}; this version reads schema {SCHEMA}.")
        for number, stage in enumerate(content["stages"]):
            points = stage.get("curve") or {"step": []}
            if {len(values) for values in points.values()} != {len(points.get("step", ()))} or None in points["step"]:
                raise UsageError(f"{path}: stages.{number}.curve: The lists differ in length, or a step is missing.")
    except UsageError as error:
        raise UsageError(f"{error} Remove the file, or copy it again from the run directory.") from error
    return content


def write(stages: Sequence[Stage], folder: Path) -> None:
    """Writes `training.json`.

    Args:
        stages: the earlier stages, and that of this run.
        folder: directory of a checkpoint or model.
    """
    content = {"schema": SCHEMA, "stages": list(stages)}
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / TRAINING).write_text(text + "\n", encoding="utf-8")


def stage_of(recipe: PretrainingArguments, totals: Totals, state: TrainerState, max_steps: int | None) -> Stage:
    """The entry of the stage that a run trains.

    Args:
        recipe: the recipe.
        totals: counts of the run.
        state: state of the trainer.
        max_steps: number of steps of the whole run; None if tokens or time limit it.

    Returns:
        The `stage`; the model that it started from (`init_from`), of which a local path is reduced to its last part;
        `steps` taken so far and `max_steps`; `tokens`, `padded_tokens`, `labels`, `documents` and `characters` as in
        `Totals`; `rows_per_step` over all devices; `seconds` of training; `flops`; `hardware`; `versions` of
        libraries; `data` by name with weights; the keys of the `recipe` that affect the weights; the `curve` as lists
        of equal length, with None for missing values; `emissions_kg` of CO2 equivalent, if measured.
    """
    counts = ("tokens", "padded_tokens", "labels", "documents", "characters")
    own = set(PretrainingArguments.__annotations__) - set(TrainingArguments.__dataclass_fields__)
    shown = (own | set(_SHOWN)) - set(_PLACES)
    emissions = emissions_of(Path(recipe.output_dir) / EMISSIONS)
    stage: dict[str, Any] = {
        "stage": recipe.stage,
        "init_from": None if recipe.init_from is None else data_names(recipe.init_from)[0]["name"],
        "steps": state.global_step,
        "max_steps": max_steps,
        **{name: int(getattr(totals, name)) for name in counts},
        "rows_per_step": recipe.rows_per_step,
        "seconds": round(totals.seconds, 1),
        "flops": totals.flops,
        "hardware": hardware(recipe.world_size, recipe.device.type),
        "versions": library_versions(_LIBRARIES),
        "data": data_names(recipe.train_data),
        "recipe": {key: value for key, value in decisive(recipe).items() if key in shown and value is not None},
        **({} if emissions is None else {"emissions_kg": emissions}),
        "curve": curve(state.log_history),
    }
    return cast(Stage, stage)


def hardware(devices: int, kind: str) -> dict[str, Any]:
    """Describes the hardware of a run; for a CPU, its number of cores.

    Args:
        devices: number of processes, each of which uses one device.
        kind: device type as in `torch.device.type`.
    """
    if kind == "cpu":
        return {"device": "CPU", "devices": devices, "cores": os.cpu_count()}
    return {"device": torch.cuda.get_device_name() if kind == "cuda" else kind, "devices": devices}


def data_names(data: Any) -> list[Data]:
    """The sources of a recipe's `train_data` with their weights. Local paths are reduced to their last part."""
    listed = [data] if isinstance(data, (str, dict)) else list(data or [])
    entries = [{"path": entry} if isinstance(entry, str) else entry for entry in listed]
    kept = {"name": "config", "split": "split", "revision": "revision", "weight": "weight"}
    names: list[Data] = []
    for entry in entries:
        path = str(entry["path"])
        if is_local_path(path) or glob.glob(path, recursive=True):
            path = path.rstrip("/").rsplit("/", 1)[-1]
        names.append(cast(Data, {"name": path, **{name: entry[key] for key, name in kept.items() if key in entry}}))
    return names


def curve(log: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Converts the log of a run into columns of equal length, see `stage_of`.

    Args:
        log: `log_history` of the trainer's state.
    """
    steps: dict[int, dict[str, float]] = {}
    for entry in log:
        figures = {
            key: value
            for key, value in entry.items()
            if key in _CURVE or key.startswith("probe_")
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        if figures:
            steps.setdefault(int(entry["step"]), {}).update(figures)
    every = math.ceil(len(steps) / _POINTS) or 1
    kept = {
        step: figures
        for index, (step, figures) in enumerate(sorted(steps.items()))
        if index % every == 0 or any(key.startswith(("eval_", "probe_")) for key in figures)
    }
    names = dict.fromkeys([*_CURVE, *sorted(key for figures in kept.values() for key in figures)])
    columns = {name: [figures.get(name) for figures in kept.values()] for name in names}
    return {
        "step": list(kept),
        **{name: values for name, values in columns.items() if any(value is not None for value in values)},
    }


def emissions_of(path: Path) -> float | None:
    """Kilograms of CO2 equivalent in a file of codecarbon, summed over all processes of a run; None if not measured.

    Each row contains the emissions since the process started, so the last row of each process counts.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            by_process = {row["run_id"]: float(row["emissions"]) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return sum(by_process.values()) if by_process else None
