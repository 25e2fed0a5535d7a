"""The keys of a pre-training recipe: transformers' TrainingArguments, and those of model, data and masking."""

from __future__ import annotations

import difflib
import importlib.util
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import torch
from transformers import SchedulerType, TrainingArguments, get_scheduler
from transformers.trainer_utils import HubStrategy
from transformers.training_args import OptimizerNames
from transformers.utils.import_utils import is_torch_bf16_gpu_available

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig

from .schedule import Schedule
from .shapes import SHAPE, change_config, model_config

Data = str | list[str | dict[str, Any]] | dict[str, Any]

SPECIAL_TOKENS_PER_PIECE = 2
"""CLS and SEP around every document or part of one."""

ENTRY_KEYS = ("path", "weight", "name", "split", "revision", "text_column", "min_characters", "max_characters")
"""Keys of a data entry that is a mapping."""

LEFT_TO_USER = "???"
"""What stands in a recipe for a text that everyone who runs it has to give."""

_Fault = tuple[str, str]
"""A key, and what is wrong with it."""

# Keys of TrainingArguments that would do something else here than they say, and what does it instead.
_NOT_HERE = {
    "num_train_epochs": "a stream has no length: set max_steps, max_tokens or max_minutes",
    "load_best_model_at_end": "checkpoints are compared by their held-out loss in the log; averaging is a command",
    "auto_find_batch_size": "another batch would be another run: set tokens_per_batch",
    "deepspeed": "use FSDP2 through an accelerate configuration",
    "save_on_each_node": "every rank's state belongs to one checkpoint, on a disk that all nodes share",
    "enable_jit_checkpoint": "SIGTERM and SIGUSR1 save a checkpoint always",
}


@dataclass
class PretrainingArguments(TrainingArguments):
    """A pre-training recipe. Keys that transformers has mean here what they mean there; see `TrainingArguments`.

    Attributes:
        stage: name of the stage, in the log and in the revisions of checkpoints.
        model: a shape (`base`, `small`, `nano`), or settings of the configuration with an optional `shape` that they
            change; with `init_from`, settings that differ from that model's.
        init_from: directory or `ORG/NAME[@REVISION]` whose weights training starts from.
        init_optimizer: whether the optimizer starts `fresh`, or `kept` as in the checkpoint `init_from`.
        init_embeddings: whether a new model's token embeddings are `random`, or `counted`: from which tokens stand
            beside which in the training data, see `cooccurrence`. Small models get over their first plateau by that.
        tokenizer: directory, repository, tokenizer.json or SentencePiece `.model`; by default that of `init_from`.
        train_data: files, folders, patterns, tokenised folders or datasets of the Hub; an entry may be a mapping of
            `path` and any of `weight`, `name`, `split`, `revision`, `text_column`, `min_characters`, `max_characters`.
        validation_data: held-out text of the same kinds, without weights.
        text_column: JSON key or column of the text.
        normalization: Unicode form that texts are brought to: `none`, `NFC` or `NFKC`.
        strict: whether a row that is no document is an error; otherwise it is counted and told.
        sequence_length: tokens of a row, special tokens included.
        long_documents: whether a document that does not fit is `cut` into consecutive pieces, or the rest of it
            is left out (`truncate`).
        packing: `best_fit` lays pieces of documents side by side into rows; `none` gives each a row.
        shuffle: whether documents are shuffled, anew in every epoch.
        block_characters: documents are shuffled and packed within blocks of so many characters.
        interleave: files that are read side by side.
        data_lanes: sequences of blocks that are dealt to the ranks. With texts that are tokenised on the fly, take the
            number of ranks or a multiple, so that each tokenises only its own. Another number is another order.
        mlm_probability: share of the tokens that are to be predicted.
        final_mlm_probability: the same while the learning rate decays.
        mask_share: of these tokens, the share that the mask replaces.
        random_share: of these tokens, the share that a random one replaces; the rest stays.
        whole_word: whether words are masked as a whole; needs a segmenter (`pip install fugashi unidic-lite`).
        tokens_per_batch: tokens of one device's batch, that is as many rows as fit; instead of
            `per_device_train_batch_size`, which counts rows.
        batch_warmup_steps: steps over which a device's batch grows from one row to all.
        max_tokens: tokens of the run at most, over all ranks.
        max_minutes: minutes of training at most. The schedule runs over whichever limit comes first.
        decay_norms_and_biases: whether weight decay is for norms and biases, too.
        max_skipped_steps: steps that may be skipped for a loss that is not finite before it ends the run.
        max_validation_tokens: of the held-out text so many tokens are used.
        keep_steps: steps whose checkpoints are saved, whatever `save_steps`, and stay, whatever `save_total_limit`;
            step 0 has the untrained model.
        publish_steps: with `push_to_hub`, the steps whose checkpoints become revisions; None for all that are saved.
        probe_steps: steps at which probes measure the model; None for all that are saved.
    """

    output_dir: str = ""
    adam_beta2: float = 0.98
    adam_epsilon: float = 1e-6
    logging_steps: float = 10
    logging_nan_inf_filter: bool = False
    remove_unused_columns: bool = False
    disable_tqdm: bool | None = True
    ignore_data_skip: bool = True
    # Every parameter has a gradient in every batch: looking for others costs a walk through the graph.
    ddp_find_unused_parameters: bool | None = False

    stage: str = "stage1"
    model: str | dict[str, Any] | None = None
    init_from: str | None = None
    init_optimizer: Literal["fresh", "kept"] = "fresh"
    init_embeddings: Literal["random", "counted"] = "random"
    tokenizer: str | None = None
    train_data: Data | None = None
    validation_data: Data | None = None
    text_column: str = "text"
    normalization: Literal["none", "NFC", "NFKC"] = "none"
    strict: bool = False
    sequence_length: int = 1024
    long_documents: Literal["cut", "truncate"] = "cut"
    packing: Literal["best_fit", "none"] = "best_fit"
    shuffle: bool = True
    block_characters: int = 4_000_000
    interleave: int = 8
    data_lanes: int = 1
    mlm_probability: float = 0.3
    final_mlm_probability: float | None = None
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_word: bool = False
    tokens_per_batch: int | None = None
    batch_warmup_steps: int = 0
    max_tokens: int | None = None
    max_minutes: float | None = None
    decay_norms_and_biases: bool = False
    max_skipped_steps: int = 0
    max_validation_tokens: int = 100_000
    keep_steps: list[int] | None = None
    publish_steps: list[int] | None = None
    probe_steps: list[int] | None = None
    resume_from_checkpoint: str | bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "a checkpoint, or true for the last one"}
    )

    @property
    def rows_per_device_batch(self) -> int:
        """Rows of one device's batch."""
        if self.tokens_per_batch is None:
            return self.per_device_train_batch_size
        return self.tokens_per_batch // self.sequence_length

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimizer step, of all devices, once the batch has its full size."""
        return self.rows_per_device_batch * self.gradient_accumulation_steps * self.world_size

    @property
    def device(self) -> torch.device:
        """This process's device. A CPU is not numbered: transformers 5.17 loads the optimizer onto it by name, and
        torch knows no `cpu:0` there."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


def check(given: dict[str, Any]) -> None:
    """Checks that keys go together, before anything is made of them.

    Args:
        given: a recipe's keys with values of the right types; what is not given has its default.

    Raises:
        UsageError: the first thing that is impossible, by its key.
    """
    for key, instead in _NOT_HERE.items():
        if given.get(key):
            raise UsageError(f"{key}: not in a recipe; {instead}.")
    for key, text in given.items():
        if text == LEFT_TO_USER:
            raise UsageError(f"{key}: missing: this recipe has none of its own. Give {key}=….")
    value = {name: given.get(name, default) for name, default in _defaults().items()}
    for key, reason in _faults(value, given):
        raise UsageError(f"{key}: {reason}")
    if value["model"] is not None:
        _check_model(value)


def _faults(value: dict[str, Any], given: dict[str, Any]) -> Iterator[_Fault]:
    """Pairs of a key and what is wrong with it, in the order in which they should be told."""
    if not value["output_dir"]:
        yield "output_dir", "missing: name the directory that the run is to be written to."
    if not re.fullmatch(r"[\w.-]+", value["stage"]):
        yield (
            "stage",
            f"{value['stage']!r} is to be part of a revision's name: take letters, digits, '.', '_' and '-'.",
        )
    if not value["train_data"]:
        yield "train_data", "missing: name files, folders, patterns or datasets with text to train on."
    if value["model"] is None and not value["init_from"]:
        yield "model", "missing: name a shape (base, small, nano) or settings, or a model to start from by init_from."
    if not value["tokenizer"] and not value["init_from"]:
        yield "tokenizer", "missing: name a directory, repository or SentencePiece .model file."
    if value["max_steps"] <= 0 and value["max_tokens"] is None and value["max_minutes"] is None:
        yield "max_steps", "missing: the run has no end. Set max_steps, max_tokens or max_minutes."
    for key, number in given.items():
        if isinstance(number, float) and not math.isfinite(number):
            yield key, f"{number} is no finite number."
    above_zero = ("max_tokens", "max_minutes", "learning_rate", "block_characters", "interleave", "data_lanes")
    for key in (*above_zero, "max_validation_tokens"):
        if value[key] is not None and value[key] <= 0:
            yield key, f"{value[key]}, but it must be above 0."
    not_negative = ("batch_warmup_steps", "warmup_steps", "max_skipped_steps", "weight_decay")
    for key in (*not_negative, "dataloader_num_workers"):
        if value[key] < 0:
            yield key, f"{value[key]}, but it cannot be negative."
    for key in ("keep_steps", "publish_steps", "probe_steps"):
        if any(step < 0 for step in value[key] or ()):
            yield key, f"{min(value[key])}, but steps count from 0."
    for key in ("mlm_probability", "final_mlm_probability"):
        if value[key] is not None and not 0 < value[key] <= 1:
            yield key, f"{value[key]}, but a share of the tokens is above 0 and at most 1."
    for key in ("mask_share", "random_share"):
        if not 0 <= value[key] <= 1:
            yield key, f"{value[key]}, but a share is from 0 to 1."
    if value["mask_share"] + value["random_share"] > 1 + 1e-9:
        yield "random_share", "together with mask_share it is more than 1."
    if value["sequence_length"] <= SPECIAL_TOKENS_PER_PIECE:
        yield "sequence_length", f"{value['sequence_length']} leaves no room for a token beside CLS and SEP."
    yield from _batch_faults(value, given)
    yield from _data_faults(value)
    yield from _choice_faults(value)
    yield from _schedule_faults(value)
    if value["final_mlm_probability"] is not None:
        decays = _plain(value["lr_scheduler_type"]) == SchedulerType.WARMUP_STABLE_DECAY.value
        if value["max_steps"] <= 0 or not decays:
            yield (
                "final_mlm_probability",
                "it counts where the learning rate decays: set max_steps, and lr_scheduler_type=warmup_stable_decay "
                "with lr_scheduler_kwargs.num_decay_steps.",
            )
        for key in ("max_tokens", "max_minutes"):
            if value[key] is not None:
                yield (
                    "final_mlm_probability",
                    f"it counts from a step on, but {key} may move the decay to an earlier one. Set {key}=null, or "
                    "final_mlm_probability=null.",
                )
    if value["max_steps"] <= 0:
        for key in ("save_steps", "eval_steps", "logging_steps"):
            if value[key] is not None and 0 < value[key] < 1:
                yield key, f"{value[key]} is a share of max_steps, which is not set: give a number of steps."
    if value["init_optimizer"] == "kept" and not value["init_from"]:
        yield "init_optimizer", "there is none to keep without init_from."
    if value["init_embeddings"] == "counted" and value["init_from"]:
        yield "init_embeddings", "counted is for a new model; init_from has its own. Set init_embeddings=random."
    if value["push_to_hub"] and not value["hub_model_id"]:
        yield "hub_model_id", "missing: name the repository (ORG/NAME) that push_to_hub pushes to."
    if value["publish_steps"] is not None and not value["push_to_hub"]:
        yield "publish_steps", "nothing is published without push_to_hub=true."
    if value["bf16"] and value["fp16"]:
        yield "fp16", "bf16 is set, too: take one of them."
    if value["bf16"] and not value["use_cpu"] and not is_torch_bf16_gpu_available():
        yield "bf16", "there is no GPU here that computes in it. Set bf16=false, or use_cpu=true."
    if _plain(value["eval_strategy"]) != "no" and not value["validation_data"]:
        yield "validation_data", "missing: eval_strategy wants held-out text. Name it, or set eval_strategy=no."
    if value["whole_word"] and importlib.util.find_spec("fugashi") is None:
        yield "whole_word", "needs a segmenter: pip install fugashi unidic-lite."


def _choice_faults(value: dict[str, Any]) -> Iterator[_Fault]:
    strategies = {key: ["no", "steps"] for key in ("eval_strategy", "logging_strategy", "save_strategy")}
    of_transformers = {"optim": OptimizerNames, "lr_scheduler_type": SchedulerType, "hub_strategy": HubStrategy}
    for key, known in {**strategies, **{key: [*map(_plain, kind)] for key, kind in of_transformers.items()}}.items():
        chosen = _plain(value[key])
        if chosen not in known:
            close = difflib.get_close_matches(str(chosen), known, 1)
            way_out = f"did you mean {close[0]}?" if close else f"take one of {', '.join(known)}."
            yield key, f"there is no {chosen!r}; {way_out}"


def _schedule_faults(value: dict[str, Any]) -> Iterator[_Fault]:
    """What transformers would find wrong with the schedule when the data is open already."""
    given = value["lr_scheduler_kwargs"] or {}
    if not isinstance(given, dict):
        yield "lr_scheduler_kwargs", f"{given!r} is no mapping of the schedule's settings."
        return
    schedule = Schedule(value["max_steps"] if value["max_steps"] > 0 else None, max_seconds=1.0)
    try:
        warmup = schedule.steps(value["warmup_steps"])
        counts = {
            name: schedule.steps(given[name]) for name in ("num_decay_steps", "num_stable_steps") if name in given
        }
    except (ValueError, TypeError) as error:
        yield "warmup_steps" if not given else "warmup_steps, lr_scheduler_kwargs", str(error)
        return
    if warmup + sum(counts.values()) > schedule.length:
        yield (
            "warmup_steps",
            f"{warmup} steps of warm-up and {sum(counts.values())} of lr_scheduler_kwargs are more than the run's "
            f"max_steps={value['max_steps']}.",
        )
    try:
        nothing = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        get_scheduler(
            _plain(value["lr_scheduler_type"]), nothing, warmup, schedule.length, {**given, **counts} or None
        )
    except (ValueError, TypeError) as error:
        yield "lr_scheduler_kwargs", f"{_plain(value['lr_scheduler_type'])} refuses them: {error}."


def _check_model(value: dict[str, Any]) -> None:
    model = value["model"]
    if value["init_from"]:
        if isinstance(model, str) or SHAPE in model:
            raise UsageError(
                "model: a shape is for a new model. With init_from, give settings that differ from that model's, such "
                "as model.global_rope_theta=160000, or none (model=null)."
            )
        # Only names and types can be looked at before that model is there.
        change_config(LlmJpModernBertConfig(), model)
        return
    # The tokenizer is not read yet; its size does not matter here.
    longest = model_config(model, vocab_size=100_000).max_position_embeddings
    if value["sequence_length"] > longest:
        raise UsageError(
            f"sequence_length: {value['sequence_length']} tokens, but the model reads {longest}. Shorten it, or raise "
            "model.max_position_embeddings."
        )


def _batch_faults(value: dict[str, Any], given: dict[str, Any]) -> Iterator[_Fault]:
    tokens = value["tokens_per_batch"]
    if tokens is not None and "per_device_train_batch_size" in given:
        yield "tokens_per_batch", "per_device_train_batch_size is set, too: give one, and null for the other."
    if tokens is not None and tokens < value["sequence_length"]:
        yield (
            "tokens_per_batch",
            (f"{tokens} tokens do not hold one row of sequence_length={value['sequence_length']}."),
        )
    if value["per_device_train_batch_size"] < 1:
        yield "per_device_train_batch_size", "a batch has at least one row."
    if value["gradient_accumulation_steps"] < 1:
        yield "gradient_accumulation_steps", "a step has at least one batch."
    if 0 < value["max_steps"] <= value["batch_warmup_steps"]:
        yield "batch_warmup_steps", f"{value['batch_warmup_steps']} of only {value['max_steps']} steps (max_steps)."


def _data_faults(value: dict[str, Any]) -> Iterator[_Fault]:
    for key in ("train_data", "validation_data"):
        data = value[key] or []
        for entry in data if isinstance(data, list) else [data]:
            if isinstance(entry, dict):
                yield from ((key, reason) for reason in _entry_faults(entry))
                if key == "validation_data" and "weight" in entry:
                    yield key, f"{entry['path']} has a weight; held-out text is read as it is."


def _entry_faults(entry: dict[str, Any]) -> Iterator[str]:
    unknown = sorted(str(name) for name in entry if name not in ENTRY_KEYS)
    if unknown:
        yield f"an entry has {unknown[0]!r}; it may have {', '.join(ENTRY_KEYS)}."
    if not entry.get("path"):
        yield "an entry has no path."
    for name in ("path", "name", "split", "revision", "text_column"):
        if not isinstance(entry.get(name, ""), str):
            yield f"{name} of {entry['path']} is {entry[name]!r}; it must be a text."
    for name in ("min_characters", "max_characters"):
        count = entry.get(name, 0)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            yield f"{name} of {entry['path']} is {count!r}; it must be a whole number from 0."
    if entry.get("max_characters", math.inf) < entry.get("min_characters", 0):
        yield f"max_characters of {entry['path']} is below its min_characters."
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
        yield f"the weight of {entry['path']} is {weight!r}; it must be a number above 0."


def _plain(choice: Any) -> Any:
    return choice.value if isinstance(choice, Enum) else choice


def _defaults() -> dict[str, Any]:
    return {
        name: member.default_factory() if callable(member.default_factory) else member.default
        for name, member in PretrainingArguments.__dataclass_fields__.items()
    }
