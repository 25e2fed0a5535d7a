"""Recipe files and overrides: parsing, validation messages, rendering and fingerprints."""

from __future__ import annotations

import importlib.util
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.recipe.arguments import to_training_arguments
from llm_jp_modernbert.training.recipe.loading import differences, fingerprint, load_recipe, render

COMPLETE: dict[str, Any] = {
    "model": "nano",
    "tokenizer": "some/tokenizer",
    "train_data": "texts.jsonl",
    "output_dir": "out",
    "max_steps": 100,
    "use_cpu": True,
}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a complete recipe with some keys changed; None removes a key."""

    def written(name: str = "recipe.yaml", /, **changes: Any) -> str:
        keys = {key: value for key, value in {**COMPLETE, **changes}.items() if value is not None}
        path = tmp_path / name
        path.write_text(yaml.safe_dump(keys), encoding="utf-8")
        return str(path)

    return written


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rat": 1e-3}, ["recipe.yaml", "'learning_rat'", "did you mean learning_rate?"]),
        ({"learning_rate": "fast"}, ["learning_rate", '"fast"', "a number"]),
        ({"learning_rate": float("inf")}, ["learning_rate", "inf"]),
        ({"learning_rate": float("nan")}, ["learning_rate", "nan"]),
        ({"learning_rate": 0}, ["learning_rate", "above 0"]),
        ({"sequence_length": 1024.5}, ["sequence_length", "1024.5", "an integer"]),
        ({"sequence_length": True}, ["sequence_length", "true", "an integer"]),
        ({"mlm_probability": True}, ["mlm_probability", "true", "a number"]),
        ({"strict": 1}, ["strict", "1", "true or false"]),
        ({"packing": "tight"}, ["packing", '"tight"', "best_fit", "none"]),
        ({"normalization": "nfkc"}, ["normalization", "NFKC"]),
        ({"publish_steps": ["last"]}, ["publish_steps", "last", "an integer"]),
        ({"train_data": 3}, ["train_data", "3"]),
        ({"train_data": None}, ["train_data", "missing"]),
        ({"train_data": []}, ["train_data", "missing"]),
        ({"output_dir": None}, ["output_dir", "missing"]),
        ({"tokenizer": None}, ["tokenizer", "missing"]),
        ({"model": None}, ["model", "missing", "init_from"]),
        ({"max_steps": None}, ["max_steps", "max_tokens", "max_minutes"]),
        ({"max_steps": None, "max_minutes": -1}, ["max_minutes", "-1"]),
        ({"max_steps": -5}, ["max_steps", "-5", "at least 1"]),
        ({"max_steps": 0}, ["max_steps", "0", "at least 1"]),
        ({"adam_beta1": 1.0}, ["adam_beta1", "1.0", "below 1"]),
        ({"adam_beta2": -0.1}, ["adam_beta2", "-0.1"]),
        ({"adam_epsilon": -1e-8}, ["adam_epsilon"]),
        ({"max_grad_norm": -1.0}, ["max_grad_norm"]),
        ({"neftune_noise_alpha": -1.0}, ["neftune_noise_alpha"]),
        ({"warmup_steps": 1.5}, ["warmup_steps", "1.5", "whole number"]),
        ({"logging_steps": 1.5}, ["logging_steps", "1.5", "whole number"]),
        ({"logging_steps": -1}, ["logging_steps", "-1"]),
        ({"save_steps": 0}, ["save_steps", "0"]),
        ({"eval_steps": -1}, ["eval_steps", "-1"]),
        ({"eval_delay": -1}, ["eval_delay", "-1"]),
        ({"save_total_limit": -1}, ["save_total_limit", "-1"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"seed": 2**32}, ["seed", "4294967296"]),
        ({"data_seed": -1}, ["data_seed", "-1"]),
        ({"gradient_accumulation_steps": 10**9}, ["gradient_accumulation_steps", "1,000,000"]),
        ({"data_lanes": 10**9}, ["data_lanes", "1,000,000"]),
        ({"dataloader_num_workers": 10**6}, ["dataloader_num_workers", "1,000"]),
        ({"per_device_eval_batch_size": 0}, ["per_device_eval_batch_size", "0"]),
        ({"torch_empty_cache_steps": 0}, ["torch_empty_cache_steps", "0"]),
        ({"ddp_timeout": -1}, ["ddp_timeout", "-1"]),
        ({"lr_scheduler_kwargs": {"min_lr": float("nan")}}, ["lr_scheduler_kwargs.min_lr", "nan"]),
        ({"model": {"shape": "nano", "norm_eps": float("inf")}}, ["model.norm_eps", "inf"]),
        (
            {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": -5}},
            ["lr_scheduler_kwargs", "negative"],
        ),
        ({"mlm_probability": 0}, ["mlm_probability", "0"]),
        ({"mlm_probability": 30}, ["mlm_probability", "30"]),
        ({"mask_share": 0.8, "random_share": 0.3}, ["random_share", "mask_share"]),
        ({"random_share": -0.1}, ["random_share", "-0.1"]),
        ({"sequence_length": 2}, ["sequence_length", "2"]),
        ({"sequence_length": 8193}, ["sequence_length", "8193", "8192", "max_position_embeddings"]),
        ({"tokens_per_batch": 1023}, ["tokens_per_batch", "1023", "1024"]),
        ({"tokens_per_batch": 2048, "per_device_train_batch_size": 2}, ["tokens_per_batch", "per_device_train"]),
        ({"batch_warmup_steps": 100}, ["batch_warmup_steps", "100"]),
        ({"batch_warmup_steps": -1}, ["batch_warmup_steps", "-1"]),
        ({"length_warmup_steps": 100}, ["length_warmup_steps", "100", "max_steps=100"]),
        ({"length_warmup_steps": -1}, ["length_warmup_steps", "-1"]),
        ({"length_warmup_steps": 10, "initial_length": 1024}, ["initial_length", "1024", "sequence_length"]),
        ({"initial_length": 2}, ["initial_length", "2"]),
        ({"theta_warmup_steps": 10}, ["theta_warmup_steps", "init_from"]),
        ({"theta_warmup_steps": 10, "init_from": "a/b", "model": None}, ["theta_warmup_steps", "global_rope_theta"]),
        (
            {"theta_warmup_steps": 100, "init_from": "a/b", "model": {"global_rope_theta": 1.6e5}},
            ["theta_warmup_steps", "100", "max_steps=100"],
        ),
        (
            {"theta_warmup_steps": 9, "init_from": "a/b", "model": {"global_rope_theta": 1.6e5}, "max_tokens": 1000},
            ["theta_warmup_steps", "max_tokens=null"],
        ),
        ({"final_mlm_probability": 0.15}, ["final_mlm_probability", "warmup_stable_decay"]),
        (
            {
                "max_tokens": 1000,
                "final_mlm_probability": 0.15,
                "lr_scheduler_type": "warmup_stable_decay",
                "lr_scheduler_kwargs": {"num_decay_steps": 10},
            },
            ["final_mlm_probability", "max_tokens=null"],
        ),
        ({"max_steps": None, "max_tokens": 1000, "save_steps": 0.2}, ["save_steps", "0.2", "max_steps"]),
        ({"lr_scheduler_type": "wsd"}, ["lr_scheduler_type", "'wsd'", "warmup_stable_decay"]),
        ({"lr_scheduler_type": "liner"}, ["lr_scheduler_type", "did you mean linear?"]),
        ({"lr_scheduler_type": "warmup_stable_decay"}, ["lr_scheduler_kwargs", "num_decay_steps"]),
        ({"lr_scheduler_kwargs": {"num_decay_steps": 10}}, ["lr_scheduler_kwargs", "linear", "num_decay_steps"]),
        ({"lr_scheduler_kwargs": "fast"}, ["lr_scheduler_kwargs", "fast"]),
        ({"warmup_steps": 101}, ["warmup_steps", "101", "max_steps=100"]),
        ({"warmup_steps": 10, "max_steps": None, "max_minutes": 5}, ["warmup_steps", "max_steps"]),
        ({"optim": "adamw_torhc"}, ["optim", "did you mean adamw_torch"]),
        ({"init_optimizer": "kept"}, ["init_optimizer", "init_from"]),
        ({"init_embeddings": "counted", "init_from": "a/b", "model": None}, ["init_embeddings", "random"]),
        ({"push_to_hub": True}, ["hub_model_id"]),
        ({"push_to_hub": True, "hub_model_id": "a b/c"}, ["hub_model_id", "'a b/c'", "ORG/NAME"]),
        ({"metric_for_best_model": "f1"}, ["metric_for_best_model", "'f1'", "masked_accuracy"]),
        ({"fsdp": "full_shard"}, ["fsdp", "several processes"]),
        ({"publish_steps": [10]}, ["publish_steps", "push_to_hub"]),
        ({"probe_steps": [-5]}, ["probe_steps", "-5"]),
        ({"eval_strategy": "steps"}, ["validation_data", "eval_strategy"]),
        ({"eval_strategy": "epoch", "validation_data": "v.jsonl"}, ["eval_strategy", "'epoch'", "steps"]),
        ({"eval_strategy": "epoch"}, ["eval_strategy", "'epoch'", "steps"]),
        ({"train_data": [{"path": "a", "weight": True}]}, ["train_data", "weight", "true is not a number."]),
        ({"save_strategy": "epoch"}, ["save_strategy", "'epoch'", "steps"]),
        ({"bf16": True, "fp16": True}, ["fp16", "bf16"]),
        ({"fp16": True}, ["fp16", "GPU", "bf16=true"]),
        ({"eval_on_start": True}, ["validation_data", "eval_on_start"]),
        ({"label_smoothing_factor": 0.1}, ["label_smoothing_factor", "not supported"]),
        ({"ignore_data_skip": False}, ["ignore_data_skip", "not supported"]),
        ({"log_level": "loud"}, ["log_level", "'loud'", "warning"]),
        ({"torch_compile_backend": "inductr"}, ["torch_compile_backend", "'inductr'"]),
        ({"torch_compile_mode": "fast"}, ["torch_compile_mode", "'fast'", "max-autotune"]),
        ({"use_liger_kernel": True}, ["use_liger_kernel", "not supported"]),
        ({"optim_args": "rank"}, ["optim"]),
        ({"accelerator_config": "missing.json"}, ["missing.json"]),
        (
            {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 4}}},
            ["accelerator_config.gradient_accumulation_kwargs.num_steps", "gradient_accumulation_steps"],
        ),
        (
            {"accelerator_config": {"gradient_accumulation_kwargs": {"num_stpes": 4}}},
            ["accelerator_config.gradient_accumulation_kwargs", "num_stpes"],
        ),
        ({"accelerator_config": {"gradient_accumulation_kwargs": "4"}}, ["gradient_accumulation_kwargs"]),
        ({"fsdp_config": {"reshard_after_foward": True}}, ["fsdp_config", "did you mean reshard_after_forward?"]),
        ({"num_train_epochs": 3}, ["num_train_epochs", "max_steps", "max_tokens"]),
        ({"deepspeed": "zero.json"}, ["deepspeed", "FSDP2"]),
        ({"auto_find_batch_size": True}, ["auto_find_batch_size", "tokens_per_batch"]),
        ({"model": "huge"}, ["model", "'huge'", "base", "small", "nano"]),
        ({"model": {"shape": "huge"}}, ["model", "'huge'"]),
        ({"model": {"hidden_sise": 64}}, ["model.hidden_sise", "did you mean hidden_size?"]),
        ({"model": {"hidden_size": "wide"}}, ["hidden_size", "wide"]),
        ({"model": {"num_hidden_layers": 10**6}}, ["num_hidden_layers=1000000", "1,000 layers"]),
        ({"model": {"norm_eps": -1.0}}, ["model.norm_eps", "-1.0", "above 0"]),
        ({"model": {"initializer_range": 0.0}}, ["model.initializer_range", "0.0", "above 0"]),
        ({"init_from": "x", "model": {"global_rope_theta": -1.0}}, ["model.global_rope_theta", "-1.0", "above 0"]),
        ({"model": {"mlp_dropout": 1.5}}, ["model.mlp_dropout", "1.5", "below 1"]),
        ({"init_from": "a/b", "model": {"attention_dropout": -0.1}}, ["model.attention_dropout", "-0.1"]),
        ({"model": {"num_hidden_layers": 0}}, ["num_hidden_layers=0", "at least 1"]),
        ({"model": {"hidden_size": 10**7}}, ["hidden_size=10000000", "parameters"]),
        ({"model": {"shape": "nano", "num_attention_heads": 3}}, ["model.num_attention_heads", "128"]),
        ({"model": {"global_rope_theta": "far"}}, ["model.global_rope_theta", "'far'"]),
        ({"init_from": "a/b"}, ["model", "init_from", "model=null"]),
        ({"init_from": "a/b", "model": {"hidden_sise": 64}}, ["model.hidden_sise", "hidden_size"]),
        ({"init_from": "a/b", "model": {"hidden_size": "wide"}}, ["model.hidden_size", "wide"]),
        ({"train_data": [{"path": "a", "weight": -1}]}, ["train_data", "weight", "-1"]),
        ({"train_data": [{"path": "a", "weight": float("nan")}]}, ["train_data", "weight", "nan"]),
        ({"train_data": [{"path": "a", "wieght": 1}]}, ["train_data", "'wieght'", "weight"]),
        ({"train_data": [{"weight": 1}]}, ["train_data", "path"]),
        ({"train_data": {"path": "a", "split": 1}}, ["train_data", "split"]),
        ({"train_data": [{"path": "a", "min_characters": "many"}]}, ["train_data", "min_characters", "many"]),
        ({"train_data": [{"path": "a", "min_characters": 9, "max_characters": 3}]}, ["train_data", "max_characters"]),
        ({"validation_data": [{"path": "a", "weight": 1}]}, ["validation_data", "weight"]),
    ],
    ids=str,
)
def test_invalid_recipe_raises_one_line_with_key_and_remedy(write: Any, changes: Any, words: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        load_recipe(write(**changes))
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message


OPTIONAL_OPTIMIZERS = {
    **dict.fromkeys(("adamw_8bit", "paged_lion_8bit", "rmsprop_bnb", "ademamix"), "bitsandbytes"),
    **{"adamw_torch_8bit": "torchao", "galore_adamw": "galore", "apollo_adamw": "apollo", "lomo": "lomo"},
    **{"grokadamw": "grokadamw", "schedule_free_adamw": "schedulefree"},
    "adamw_anyprecision": "torchdistx",
}


@pytest.mark.parametrize(("name", "package"), OPTIONAL_OPTIMIZERS.items())
def test_optimizer_without_its_package_is_named(write: Any, name: str, package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip("installed")
    with pytest.raises(UsageError, match=rf"^optim: {name}: .*{package}") as raised:
        load_recipe(write(optim=name, optim_target_modules=["attn"]))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("recipe_of_shape", ["nano", "small", "base"])
def test_shapes_are_within_the_bounds(write: Any, recipe_of_shape: str) -> None:
    assert load_recipe(write(model=recipe_of_shape)).model == recipe_of_shape


def test_run_of_one_step_is_valid(write: Any) -> None:
    """Fractions of a single step round to 0, so that the step has a learning rate above 0."""
    kwargs = {"decay_type": "1-sqrt", "num_decay_steps": 0.3}
    recipe = load_recipe(
        write(max_steps=1, warmup_steps=0.1, lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs=kwargs)
    )
    arguments = to_training_arguments(recipe)
    assert (arguments.max_steps, arguments.warmup_steps) == (1, 0)


@pytest.mark.parametrize(
    ("changes", "key", "remedy"),
    [
        ({"hub_model_id": "a/b"}, "hub_model_id", "push_to_hub=true"),
        ({"hub_private_repo": True}, "hub_private_repo", "push_to_hub=true"),
        ({"push_to_hub": True, "hub_model_id": "a/b", "save_strategy": "no"}, "push_to_hub", "save_strategy=steps"),
        ({"greater_is_better": True}, "greater_is_better", "reduce_lr_on_plateau"),
        ({"data_seed": 7}, "data_seed", "seed"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last", "batches"),
        ({"bf16_full_eval": True}, "bf16_full_eval", "held-out text"),
        ({"eval_delay": 5, "validation_data": "v.jsonl"}, "eval_delay", "eval_strategy=steps"),
        ({"gradient_checkpointing_kwargs": {"a": 1}}, "gradient_checkpointing_kwargs", "gradient_checkpointing=true"),
        ({"fsdp_config": {"version": 2}}, "fsdp_config", "without fsdp"),
        ({"eval_steps": 5, "validation_data": "v.jsonl"}, "eval_steps", "eval_strategy=steps"),
        ({"interleave": 4, "shuffle": False}, "interleave", "shuffle=true"),
        ({"decay_norms_and_biases": True}, "decay_norms_and_biases", "weight_decay"),
        ({"optim_target_modules": ["attn"]}, "optim_target_modules", "GaLore"),
        ({"trackio_space_id": "a/b"}, "trackio_space_id", "report_to=trackio"),
    ],
    ids=str,
)
def test_key_without_effect_is_reported(
    write: Any, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], key: str, remedy: str
) -> None:
    load_recipe(write(**changes))
    (line,) = [line for line in caplog.messages if "no effect" in line]
    assert line.startswith(f"{key} has no effect ")
    assert remedy in line


def test_no_key_of_a_resolved_recipe_is_without_effect(
    write: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(render(load_recipe(write())), encoding="utf-8")
    load_recipe(str(resolved))
    assert caplog.messages == []


def test_whole_word_without_segmenter_names_the_packages(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fugashi" else find_spec(name))
    with pytest.raises(UsageError, match=r"whole_word: .*pip install fugashi unidic-lite"):
        load_recipe(write(whole_word=True))


def test_bf16_without_support_raises(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_jp_modernbert.training.recipe.rules.is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(UsageError, match=r"bf16: .*bf16=false.*use_cpu=true"):
        load_recipe(write(bf16=True, use_cpu=None))


@pytest.mark.parametrize(
    ("content", "words"),
    [("- a\n- b\n", ["mapping"]), ("a: [1\n", ["invalid YAML"]), ("extends: recipe\n", ["extends", "itself"])],
)
def test_invalid_file_is_named(tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "recipe"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        load_recipe(str(path))
    message = str(raised.value)
    assert "\n" not in message
    for word in [str(path) if "extends" not in content else "recipe", *words]:
        assert word in message


def test_unknown_recipe_lists_packaged_ones() -> None:
    with pytest.raises(UsageError, match=r"stage3: .*stage1"):
        load_recipe("stage3")


@pytest.mark.parametrize("override", ["learning_rate", "learing_rate=1", "stage=[1", "=1"])
def test_invalid_override_is_named(write: Any, override: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_recipe(write(), [override])
    assert override.partition("=")[0] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_numbers_are_read_as_in_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    keys = {**COMPLETE, "weight_decay": 0}
    # PyYAML reads 5e-4 as a string, YAML 1.2 as a number.
    path.write_text(yaml.safe_dump(keys) + "learning_rate: 5e-4\n", encoding="utf-8")
    arguments = load_recipe(str(path))
    assert (arguments.learning_rate, arguments.weight_decay) == (0.0005, 0)
    assert load_recipe(str(path), ["learning_rate=1E-3"]).learning_rate == 0.001
    kwargs = load_recipe(str(path), ["lr_scheduler_type=cosine_with_min_lr", "lr_scheduler_kwargs.min_lr=1e-5"])
    assert kwargs.lr_scheduler_kwargs == {"min_lr": 1e-5}


def test_no_is_a_string_and_false_a_boolean(write: Any) -> None:
    assert load_recipe(write(), ["eval_strategy=no"]).eval_strategy.value == "no"
    assert load_recipe(write(), ["save_strategy=no", "strict=True"]).strict is True
    with pytest.raises(UsageError, match=r"strict: .*true or false"):
        load_recipe(write(), ["strict=no"])


def test_overrides_are_yaml_values_and_set_keys_of_mappings(write: Any) -> None:
    overrides = ["train_data=a.gz,b.gz", "model.num_hidden_layers=2", "model.local_attention=64", "stage=long"]
    arguments = load_recipe(write(), overrides)
    assert arguments.train_data == "a.gz,b.gz"
    assert arguments.model == {"shape": "nano", "num_hidden_layers": 2, "local_attention": 64}
    assert arguments.stage == "long"
    assert load_recipe(write(), ["train_data=[a.gz, {path: b.gz, min_characters: 9}]"]).train_data == [
        "a.gz",
        {"path": "b.gz", "min_characters": 9},
    ]


def test_null_restores_the_default(write: Any) -> None:
    path = write(tokens_per_batch=2048)
    arguments = load_recipe(path, ["tokens_per_batch=null", "per_device_train_batch_size=7"])
    assert arguments.tokens_per_batch is None
    assert arguments.rows_per_device_batch == 7


def test_extending_recipe_overrides_keys(write: Any, tmp_path: Path) -> None:
    write("ground.yaml", learning_rate=1e-3, seed=7)
    (tmp_path / "middle.yaml").write_text("extends: ground.yaml\nseed: 8\nstage: middle\n", encoding="utf-8")
    top = tmp_path / "top.yaml"
    top.write_text("extends: middle.yaml\nstage: top\n", encoding="utf-8")
    arguments = load_recipe(str(top))
    assert (arguments.learning_rate, arguments.seed, arguments.stage) == (1e-3, 8, "top")


def test_rows_per_device_batch(write: Any) -> None:
    assert load_recipe(write(tokens_per_batch=5000)).rows_per_device_batch == 4
    assert load_recipe(write(per_device_train_batch_size=6)).rows_per_device_batch == 6


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["tokens_per_batch=4096", "model.hidden_size=64", "lr_scheduler_type=cosine"],
        ["per_device_train_batch_size=3", "train_data=[a.gz, {path: b.gz, min_characters: 5}]"],
        ["max_steps=null", "max_minutes=0.5", "warmup_steps=0.1", "max_tokens=5000", "adam_beta1=0.8"],
        ["validation_data=日本語.jsonl", "eval_strategy=steps", "eval_steps=5", "report_to=tensorboard"],
        ["init_from=a/b@main", "model=null", "init_optimizer=kept", "resume_from_checkpoint=true"],
        ["push_to_hub=true", "hub_model_id=a/b", "publish_steps=[5, 10]", "accelerator_config.split_batches=false"],
    ],
    ids=str,
)
def test_rendered_recipe_loads_as_the_same_recipe(write: Any, tmp_path: Path, overrides: list[str]) -> None:
    arguments = load_recipe(write(), [*overrides, "hub_token=hf_secret"])
    text = render(arguments)
    assert "hf_secret" not in text
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(text, encoding="utf-8")
    again = load_recipe(str(resolved))
    assert again == replace(arguments, hub_token=None)
    assert render(again) == text


def test_no_access_token_is_written(write: Any) -> None:
    token = "hf_" + "aB3" * 12
    place = f"https://user:{token}@example.org/hf_datasets/texts.parquet"
    recipe = load_recipe(write(hub_token=token, train_data=[{"path": place}], lr_scheduler_kwargs=None))
    assert recipe.hub_token == token
    for text in (render(recipe), str(fingerprint(recipe))):
        assert token not in text
        assert "hf_datasets" in text
    assert differences(fingerprint(recipe), recipe) == []


def test_recipe_is_frozen(write: Any) -> None:
    recipe = load_recipe(write())
    with pytest.raises(FrozenInstanceError, match="learning_rate"):
        recipe.learning_rate = 1.0
    assert replace(recipe, learning_rate=1.0).learning_rate == 1.0


def test_training_arguments_resolve_fractions_and_leave_the_recipe_unchanged(write: Any) -> None:
    keys = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 0.3}}
    recipe = load_recipe(write(warmup_steps=0.1, torch_compile=True, save_total_limit=2, **keys))
    before = render(recipe)
    arguments = to_training_arguments(recipe)
    assert (arguments.max_steps, arguments.warmup_steps) == (100, 10)
    assert arguments.lr_scheduler_kwargs == {"num_decay_steps": 30}
    assert (arguments.torch_compile, arguments.save_total_limit, arguments.push_to_hub) == (False, None, False)
    assert (arguments.learning_rate, arguments.stage) == (recipe.learning_rate, recipe.stage)
    assert render(recipe) == before


def test_defaults_equal_the_paper(write: Any) -> None:
    arguments = load_recipe(write())
    assert (arguments.mlm_probability, arguments.mask_share, arguments.random_share) == (0.3, 0.8, 0.1)
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.adam_epsilon) == (0.9, 0.98, 1e-6)
    assert (arguments.max_grad_norm, arguments.logging_steps, arguments.sequence_length) == (1.0, 10, 1024)


def test_differences_list_keys_that_affect_training_only(write: Any) -> None:
    saved = fingerprint(load_recipe(write(learning_rate=5e-4)))
    elsewhere = [
        "output_dir=there",
        "logging_steps=3",
        "save_steps=7",
        "dataloader_num_workers=2",
        "save_total_limit=1",
        "torch_compile=true",
    ]
    assert (
        differences(saved, load_recipe(write(learning_rate=5e-4), [*elsewhere, "resume_from_checkpoint=true"])) == []
    )
    changed = load_recipe(write(learning_rate=1e-4), ["seed=1", "train_data=other.jsonl"])
    assert sorted(differences(saved, changed)) == [
        "learning_rate: 0.0005 then, 0.0001 now",
        "seed: 42 then, 1 now",
        'train_data: "texts.jsonl" then, "other.jsonl" now',
    ]


@pytest.mark.parametrize(
    "override",
    [
        "sequence_length=512",
        "mlm_probability=0.2",
        "packing=none",
        "max_steps=200",
        "model.num_hidden_layers=2",
        "data_lanes=2",
        "weight_decay=0.5",
        "normalization=NFKC",
        "decay_norms_and_biases=true",
    ],
)
def test_fingerprint_holds_key_that_affects_training(write: Any, override: str) -> None:
    saved = fingerprint(load_recipe(write()))
    assert [line.partition(":")[0] for line in differences(saved, load_recipe(write(), [override]))] == [
        override.partition("=")[0].partition(".")[0]
    ]


@pytest.mark.parametrize("override", ["gradient_accumulation_steps=2", "tokens_per_batch=4096"])
def test_fingerprint_holds_rows_per_step_but_not_their_division(write: Any, override: str) -> None:
    saved = fingerprint(load_recipe(write()))
    assert [line.partition(":")[0] for line in differences(saved, load_recipe(write(), [override]))] == [
        "rows_per_step"
    ]
    both = [
        fingerprint(load_recipe(write(), [f"tokens_per_batch={tokens}", f"gradient_accumulation_steps={batches}"]))
        for tokens, batches in ((4096, 1), (2048, 2))
    ]
    assert both[0] == both[1]
