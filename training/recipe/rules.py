"""Rules for the keys of a recipe, as data: what each key accepts, and which keys do not fit together."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from transformers import SchedulerType
from transformers.trainer_utils import HubStrategy
from transformers.training_args import OptimizerNames, trainer_log_levels
from transformers.utils.import_utils import is_torch_bf16_gpu_available

from llm_jp_modernbert.core.references import is_repository

from .arguments import MUON, SPECIAL_TOKENS_PER_PIECE
from .values import plain_value

# Keys of TrainingArguments that have no effect here, or a different one, and what to use instead.
UNSUPPORTED = {
    "num_train_epochs": "a stream has no length: set max_steps, max_tokens or max_minutes",
    "load_best_model_at_end": "the log compares checkpoints by held-out loss; llm-jp-modernbert average averages them",
    "auto_find_batch_size": "the batch size changes the result: set tokens_per_batch",
    "deepspeed": "use FSDP2 with an accelerate configuration",
    "save_on_each_node": "a checkpoint holds the state of all ranks, on a disk that all nodes share",
    "enable_jit_checkpoint": "SIGTERM and SIGUSR1 always save a checkpoint",
    "label_smoothing_factor": "the loss is that of the masked tokens alone",
    "use_liger_kernel": "the model has its own loss, which needs no matrix of logits",
}

# Keys that change nothing unless something else is set: what that is, and whether it is set.
CONDITIONS: tuple[tuple[str, str, Callable[[Any], object]], ...] = (
    (
        "per_device_eval_batch_size eval_accumulation_steps eval_do_concat_batches eval_use_gather_object "
        "prediction_loss_only include_for_metrics batch_eval_metrics bf16_full_eval fp16_full_eval",
        "in pre-training, which measures held-out text in rows of sequence_length",
        lambda v: False,
    ),
    (
        "data_seed dataloader_drop_last dataloader_persistent_workers dataloader_multiprocessing_context "
        "dataloader_in_order label_names train_sampling_strategy length_column_name",
        "in pre-training, whose batches follow seed, shuffle and dataloader_num_workers",
        lambda v: False,
    ),
    (
        "hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision",
        "without push_to_hub=true",
        lambda v: v.push_to_hub,
    ),
    ("push_to_hub", "without save_strategy=steps", lambda v: plain_value(v.save_strategy) != "no" or v.publish_steps),
    (
        "metric_for_best_model greater_is_better",
        "without lr_scheduler_type=reduce_lr_on_plateau",
        lambda v: plain_value(v.lr_scheduler_type) in ("reduce_lr_on_plateau", "greedy"),
    ),
    ("eval_delay", "without eval_strategy=steps", lambda v: plain_value(v.eval_strategy) != "no"),
    ("gradient_checkpointing_kwargs", "without gradient_checkpointing=true", lambda v: v.gradient_checkpointing),
    ("activation_checkpointing_kwargs", "without activation_checkpointing=true", lambda v: v.activation_checkpointing),
    ("fsdp_config", "without fsdp", lambda v: v.fsdp),
    (
        "eval_steps",
        "without eval_strategy=steps",
        lambda v: plain_value(v.eval_strategy) != "no" or not v.validation_data,
    ),
    ("interleave balance_attention", "without shuffle=true", lambda v: v.shuffle),
    ("initial_length", "without length_warmup_steps", lambda v: v.length_warmup_steps),
    ("decay_norms_and_biases", "without weight_decay", lambda v: v.weight_decay),
    (
        "optim_target_modules",
        "without an optim of GaLore or APOLLO",
        lambda v: plain_value(v.optim).startswith(("galore", "apollo")),
    ),
    (
        "trackio_space_id trackio_bucket_id trackio_static_space_id project",
        "without report_to=trackio",
        lambda v: {"trackio", "all"} & {*([v.report_to] if isinstance(v.report_to, str) else v.report_to or ())},
    ),
)

# Values of keys whose type is not precise.
CHOICES: dict[str, list[str]] = {
    "optim": [member.value for member in OptimizerNames],
    "lr_scheduler_type": [member.value for member in SchedulerType],
    "hub_strategy": [member.value for member in HubStrategy],
    **{key: list(trainer_log_levels) for key in ("log_level", "log_level_replica")},
    "torch_compile_mode": ["default", "lite", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"],
}

# Transformers accepts more strategies, but a stream of batches has no epochs and no best checkpoint.
PRETRAINING_CHOICES: dict[str, list[str]] = {
    **{key: ["no", "steps"] for key in ("eval_strategy", "logging_strategy", "save_strategy")},
    "optim": [*CHOICES["optim"], MUON],
    "metric_for_best_model": ["loss", "eval_loss", "masked_accuracy", "eval_masked_accuracy"],
}


def _is_repository(name: str) -> bool:
    # Without an organization, the user's is meant.
    return is_repository(name if "/" in name else f"user/{name}")


def _is_interval(value: float) -> bool:
    return 0 < value < 1 or (value >= 1 and value == int(value))


# Above it, a batch, or the state of all lanes or workers, would not fit into memory.
_MOST = 1_000_000

# Rules for single values: keys, whether a value is valid, and the rule as it ends the message.
RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("stage", lambda value: bool(re.fullmatch(r"[\w.-]+", value)), "use letters, digits, '.', '_' and '-'"),
    ("hub_model_id", _is_repository, "name a repository, ORG/NAME"),
    (
        "max_tokens max_minutes num_train_epochs learning_rate block_characters max_validation_tokens weight",
        lambda value: value > 0,
        "it must be above 0",
    ),
    (
        "batch_warmup_steps length_warmup_steps theta_warmup_steps max_skipped_steps weight_decay min_characters "
        "max_characters adam_epsilon max_grad_norm eval_delay neftune_noise_alpha",
        lambda value: value >= 0,
        "it must not be negative",
    ),
    ("save_total_limit", lambda value: value >= 0, "it must be at least 1, or 0 to keep all checkpoints"),
    ("max_steps", lambda value: value == -1 or value >= 1, "it must be at least 1"),
    (
        "per_device_train_batch_size gradient_accumulation_steps interleave data_lanes per_device_eval_batch_size",
        lambda value: 1 <= value <= _MOST,
        f"it must be between 1 and {_MOST:,}",
    ),
    (
        "eval_accumulation_steps torch_empty_cache_steps dataloader_prefetch_factor ddp_timeout ddp_bucket_cap_mb",
        lambda value: value >= 1,
        "it must be at least 1",
    ),
    ("dataloader_num_workers", lambda value: 0 <= value <= 1000, "it must be between 0 and 1,000"),
    ("seed data_seed", lambda value: 0 <= value < 2**32, "it must be between 0 and 4,294,967,295"),
    ("adam_beta1 adam_beta2", lambda value: 0 <= value < 1, "it must be at least 0 and below 1"),
    (
        "save_steps eval_steps logging_steps",
        _is_interval,
        "it must be a whole number of steps, or a fraction of the run below 1",
    ),
    (
        "warmup_steps",
        lambda value: value == 0 or _is_interval(value),
        "it must be a whole number of steps, or a fraction of the run below 1",
    ),
    ("keep_steps publish_steps probe_steps", lambda steps: min(steps, default=0) >= 0, "steps count from 0"),
    (
        "mlm_probability final_mlm_probability",
        lambda value: 0 < value <= 1,
        "a fraction of tokens must be above 0 and at most 1",
    ),
    (
        "norm_eps initializer_range initializer_cutoff_factor global_rope_theta local_rope_theta",
        lambda value: value > 0,
        "it must be above 0",
    ),
    (
        "embedding_dropout attention_dropout mlp_dropout classifier_dropout",
        lambda value: 0 <= value < 1,
        "a probability must be at least 0 and below 1",
    ),
    ("mask_share random_share", lambda value: 0 <= value <= 1, "a fraction must be between 0 and 1"),
    (
        "sequence_length initial_length",
        lambda value: value > SPECIAL_TOKENS_PER_PIECE,
        "a row must hold a token, CLS and SEP",
    ),
)


def _is_fraction_of_unknown(key: str) -> Callable[[Any], object]:
    return lambda v: v.max_steps <= 0 and 0 < (getattr(v, key) or 0) < 1


def _exceeds_run(key: str) -> Callable[[Any], object]:
    return lambda v: 0 < v.max_steps <= getattr(v, key)


# Rules for several values: the key at fault, whether the values violate the rule, and the message, a format string of
# the values. Values are attributes; `given` holds the keys that the recipe sets.
Conflicts = tuple[tuple[str, Callable[[Any], object], str], ...]

SHARED_CONFLICTS: Conflicts = (
    ("fp16", lambda v: v.bf16 and v.fp16, "bf16 is set as well. Set one of them."),
    (
        "bf16",
        lambda v: v.bf16 and not v.use_cpu and not is_torch_bf16_gpu_available(),
        "no GPU here supports it. Set bf16=false, or use_cpu=true.",
    ),
    (
        "fp16",
        lambda v: (
            v.fp16 and (v.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
        ),
        "it needs a GPU. On a CPU, set bf16=true and use_cpu=true, or fp16=false.",
    ),
    (
        "torch_compile_backend",
        lambda v: (
            v.torch_compile_backend and v.torch_compile_backend not in torch.compiler.list_backends(exclude_tags=())
        ),
        "unknown backend {torch_compile_backend!r}. torch.compiler.list_backends() lists them.",
    ),
)

CONFLICTS: Conflicts = (
    ("output_dir", lambda v: not v.output_dir, "missing. Name the directory to write the run to."),
    ("train_data", lambda v: not v.train_data, "missing. Name files, directories, patterns or datasets of text."),
    (
        "model",
        lambda v: v.model is None and not v.init_from,
        "missing. Name a shape (base, small, nano), give settings, or name a model to start from in init_from.",
    ),
    (
        "tokenizer",
        lambda v: not v.tokenizer and not v.init_from,
        "missing. Name a local path, a repository or a SentencePiece .model file.",
    ),
    (
        "max_steps",
        lambda v: v.max_steps <= 0 and v.max_tokens is None and v.max_minutes is None,
        "missing: the run has no end. Set max_steps, max_tokens or max_minutes.",
    ),
    (
        "random_share",
        lambda v: v.mask_share + v.random_share > 1 + 1e-9,
        "{random_share} and mask_share={mask_share} add up to more than 1.",
    ),
    (
        "tokens_per_batch",
        lambda v: v.tokens_per_batch is not None and "per_device_train_batch_size" in v.given,
        "per_device_train_batch_size is set as well. Set one of them, and the other to null.",
    ),
    (
        "tokens_per_batch",
        lambda v: v.tokens_per_batch is not None and v.tokens_per_batch < v.sequence_length,
        "{tokens_per_batch} tokens cannot hold one row of sequence_length={sequence_length}.",
    ),
    *(
        (key, _exceeds_run(key), f"{{{key}}} must be below max_steps={{max_steps}}.")
        for key in ("batch_warmup_steps", "length_warmup_steps", "theta_warmup_steps")
    ),
    (
        "initial_length",
        lambda v: v.length_warmup_steps and v.initial_length >= v.sequence_length,
        "{initial_length} must be below sequence_length={sequence_length}. Lower it, or set length_warmup_steps=0.",
    ),
    (
        "theta_warmup_steps",
        lambda v: v.theta_warmup_steps and not v.init_from,
        "it starts at the RoPE theta of init_from, which is not set. Set theta_warmup_steps=0.",
    ),
    (
        "theta_warmup_steps",
        lambda v: v.theta_warmup_steps and not (isinstance(v.model, dict) and v.model.get("global_rope_theta")),
        "it ends at model.global_rope_theta, which is not set.",
    ),
    (
        "theta_warmup_steps",
        lambda v: v.theta_warmup_steps and (v.max_tokens, v.max_minutes) != (None, None),
        "max_tokens and max_minutes can end the run before it. Set max_tokens=null and max_minutes=null, or "
        "theta_warmup_steps=0.",
    ),
    (
        "final_mlm_probability",
        lambda v: (
            v.final_mlm_probability is not None
            and (v.max_steps <= 0 or plain_value(v.lr_scheduler_type) != SchedulerType.WARMUP_STABLE_DECAY.value)
        ),
        "it applies during learning-rate decay: set max_steps, and lr_scheduler_type=warmup_stable_decay with "
        "lr_scheduler_kwargs.num_decay_steps.",
    ),
    (
        "final_mlm_probability",
        lambda v: v.final_mlm_probability is not None and (v.max_tokens, v.max_minutes) != (None, None),
        "it starts at a fixed step, but max_tokens and max_minutes can move the decay to an earlier one. Set "
        "max_tokens=null and max_minutes=null, or final_mlm_probability=null.",
    ),
    *(
        (
            key,
            _is_fraction_of_unknown(key),
            f"{{{key}}} is a fraction of max_steps, which is not set. Give a number of steps.",
        )
        for key in ("save_steps", "eval_steps", "logging_steps")
    ),
    (
        "init_optimizer",
        lambda v: v.init_optimizer == "kept" and not v.init_from,
        "kept requires init_from.",
    ),
    (
        "init_embeddings",
        lambda v: v.init_embeddings == "counted" and v.init_from,
        "counted is for a new model; init_from has trained embeddings. Set init_embeddings=random.",
    ),
    (
        "hub_model_id",
        lambda v: v.push_to_hub and not v.hub_model_id,
        "missing. Name the repository (ORG/NAME) that push_to_hub pushes to.",
    ),
    (
        "publish_steps",
        lambda v: v.publish_steps is not None and not v.push_to_hub,
        "it requires push_to_hub=true.",
    ),
    (
        "validation_data",
        lambda v: plain_value(v.eval_strategy) != "no" and not v.validation_data,
        "missing. eval_strategy needs held-out text: name it, or set eval_strategy=no.",
    ),
    (
        "validation_data",
        lambda v: v.eval_on_start and not v.validation_data,
        "missing. eval_on_start needs held-out text: name it, or set eval_on_start=false.",
    ),
    (
        "ignore_data_skip",
        lambda v: not v.ignore_data_skip,
        "false is not supported: a resumed run already continues at the right batch. Set it to null.",
    ),
    (
        "whole_word",
        lambda v: v.whole_word and importlib.util.find_spec("fugashi") is None,
        "needs a segmenter: pip install fugashi unidic-lite.",
    ),
)
