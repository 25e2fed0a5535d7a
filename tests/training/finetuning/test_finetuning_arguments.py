"""The `key=value` arguments of fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.finetuning.arguments import FinetuningArguments, finetuning_arguments
from llm_jp_modernbert.training.finetuning.options import FinetuneOptions


def arguments(*overrides: str, **options: Any) -> FinetuningArguments:
    return finetuning_arguments(FinetuneOptions("ner", "base", list(overrides), **options), Path("out"), 7)


def test_defaults() -> None:
    made = arguments("use_cpu=true")
    assert isinstance(made, TrainingArguments)
    assert (made.learning_rate, made.num_train_epochs, made.per_device_train_batch_size) == (5e-5, 5, 32)
    assert (made.warmup_steps, made.weight_decay, made.seed, made.output_dir) == (0.1, 0.01, 7, "out")
    assert (made.eval_strategy, made.save_strategy, made.report_to) == ("epoch", "epoch", [])
    assert made.bf16 is False
    assert arguments("use_cpu=true", lora=True).learning_rate > made.learning_rate


def test_warmup_is_a_share_or_a_number_of_steps() -> None:
    assert arguments("use_cpu=true", "warmup_steps=0.2").get_warmup_steps(50) == 10
    assert arguments("use_cpu=true", "warmup_steps=500").get_warmup_steps(5000) == 500
    with pytest.raises(UsageError, match=r"warmup_steps: 500 .* exceed max_steps=100"):
        arguments("use_cpu=true", "warmup_steps=500", "max_steps=100")


def test_keys_have_yaml_values() -> None:
    made = arguments(
        "use_cpu=true", "learning_rate=3e-5", "num_train_epochs=2", "lr_scheduler_kwargs.num_cycles=2", "bf16=true",
        "lr_scheduler_type=cosine", "weight_decay=null", "eval_strategy=steps", "eval_steps=5",
    )  # fmt: skip
    assert (made.learning_rate, made.num_train_epochs, made.eval_steps, made.bf16) == (3e-5, 2, 5, True)
    assert (made.lr_scheduler_kwargs, made.weight_decay) == ({"num_cycles": 2}, 0.01)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("learning_rat=1", "learning_rate"),
        ("learning_rate", "give key=value"),
        ("learning_rate=fast", "learning_rate: .*is not a number"),
        ("learning_rate=-1", "learning_rate: -1 is invalid"),
        ("per_device_train_batch_size=0", "per_device_train_batch_size: 0"),
        ("output_dir=x", "output_dir: use --out"),
        ("seed=0", "seed: use --seed"),
        ("load_best_model_at_end=true", "load_best_model_at_end: not supported; the best epoch"),
        ("optim=adamm", "optim: "),
        ("eval_strategy=never", "eval_strategy: "),
        ("lr_scheduler_kwargs={a: 1}", "lr_scheduler_kwargs: "),
        ("report_to=wandbb", "report_to: unknown value 'wandbb'"),
        ("train_sampling_strategy=group_by_length", "train_sampling_strategy: "),
        ("fp16=true", "fp16: it needs a GPU"),
    ],
)
def test_invalid_key_is_one_line_that_names_it(override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        arguments("use_cpu=true", override)
    assert "\n" not in str(raised.value)


def test_every_field_of_training_arguments_is_a_key() -> None:
    with pytest.raises(UsageError, match="unknown"):
        arguments("no_such_key=1")
    for name in TrainingArguments.__dataclass_fields__.keys() - {"output_dir", "seed", "use_cpu"}:
        arguments("use_cpu=true", f"{name}=null")
