"""Packaged recipes, accelerate configurations and the SLURM script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
import yaml
from accelerate.commands.launch import main as launch
from forked import run_forked
from safetensors.torch import load_file

import llm_jp_modernbert.training
from llm_jp_modernbert import LlmJpModernBertConfig
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.modeling import attention_flash3
from llm_jp_modernbert.training.assembly import make_blocks, make_tokenizer
from llm_jp_modernbert.training.recipe.loading import load_recipe, shipped
from llm_jp_modernbert.training.recipe.shapes import SHAPES, change_config, model_config

Data = tuple[Path, Path]

FOLDER = Path(llm_jp_modernbert.training.__path__[0])
ACCELERATE = sorted((FOLDER / "accelerate").glob("*.yaml"))
GPUS = 16
SECOND = ["nano-stage2", "paper-stage2", "small-stage2", "stage2"]
CONTINUED = ["adapt", *SECOND]


def needed(name: str) -> list[str]:
    """Overrides with the keys that every user must supply, for a machine without a GPU."""
    start = ["init_from=some/model"] if name in CONTINUED else ["tokenizer=some/tokenizer"]
    # The length of an adaptation follows from its texts.
    start += ["max_steps=10"] if name == "adapt" else []
    return ["train_data=t.jsonl", "validation_data=v.jsonl", "output_dir=out", "use_cpu=true", *start]


def load(name: str, *overrides: str) -> Any:
    return load_recipe(name, [*needed(name), *overrides])


def test_recipe_names() -> None:
    first = ["nano", "paper-stage1", "small", "speedrun", "stage1"]
    assert shipped() == sorted([*first, *CONTINUED])


@pytest.mark.parametrize("name", shipped())
def test_recipe_loads_with_its_required_keys(name: str) -> None:
    arguments = load(name)
    assert arguments.stage == ("adapt" if name == "adapt" else "stage2" if name in SECOND else "stage1")
    assert name == "speedrun" or arguments.sequence_length == (8192 if name in SECOND else 1024)
    if name in SECOND:
        config = LlmJpModernBertConfig()
        change_config(config, arguments.model or {})
        # Only the paper keeps theta in its second stage.
        assert config.global_rope_theta == (10_000 if name == "paper-stage2" else 160_000)
        assert config.local_rope_theta == 10_000
    elif name == "adapt":
        assert arguments.model is None
    else:
        assert arguments.model is not None
        assert model_config(arguments.model, vocab_size=1000).max_position_embeddings == 8192


@pytest.mark.parametrize("name", shipped())
def test_recipes_for_gpus_compile_layers(name: str) -> None:
    assert load(name).torch_compile == name.startswith(("paper", "small", "stage"))


@pytest.mark.parametrize("name", shipped())
def test_missing_required_key_is_named(name: str) -> None:
    keys = ["train_data", "output_dir", "init_from" if name in CONTINUED else "tokenizer"]
    for key in keys:
        others = [given for given in needed(name) if not given.startswith(f"{key}=")]
        with pytest.raises(UsageError, match=f"^{key}: missing"):
            load_recipe(name, others)


@pytest.mark.parametrize("name", shipped())
def test_recipe_starts_with_a_comment(name: str) -> None:
    text = (FOLDER / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert all(len(line) <= 119 for line in text.splitlines())


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        # arXiv 2504.15544: sequence length, steps, rows per device, accumulation, rows over all GPUs, learning rate,
        # warm-up steps.
        ("paper-stage1", (1024, 500_000, 26, 8, 3328, 5e-4, 24_000)),
        ("paper-stage2", (8192, 200_000, 3, 8, 384, 5e-5, 24_000)),
    ],
)
def test_paper_recipe_equals_the_paper(name: str, figures: tuple[Any, ...]) -> None:
    run = load(name)
    rows, accumulated = run.rows_per_device_batch, run.gradient_accumulation_steps
    figures_of_run = (run.sequence_length, run.max_steps, rows, accumulated, rows * accumulated * GPUS)
    assert (*figures_of_run, run.learning_rate, run.warmup_steps) == figures
    assert (run.adam_beta1, run.adam_beta2, run.adam_epsilon) == (0.9, 0.98, 1e-6)
    assert (run.weight_decay, run.max_grad_norm, run.decay_norms_and_biases) == (1e-5, 1.0, True)
    assert (run.mlm_probability, run.mask_share, run.random_share) == (0.3, 0.8, 0.1)
    assert (run.packing, run.long_documents, run.final_mlm_probability) == ("none", "truncate", None)
    assert (run.logging_steps, run.eval_steps, run.save_steps, run.dataloader_num_workers) == (10, 500, 1000, 14)
    assert run.lr_scheduler_type.value == "linear"
    assert run.eval_strategy.value == run.save_strategy.value == "steps"
    assert run.bf16


def test_paper_model_equals_the_paper() -> None:
    config = model_config(load("paper-stage1").model, vocab_size=99_574)
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (22, 768, 1152)
    assert (config.num_attention_heads, config.local_attention, config.max_position_embeddings) == (12, 128, 8192)
    assert (config.global_rope_theta, config.local_rope_theta) == (10_000, 10_000)
    assert (config.norm_eps, config.norm_bias) == (1e-5, False)
    assert [kind == "full_attention" for kind in config.layer_types] == [layer % 3 == 0 for layer in range(22)]


@pytest.mark.parametrize(("name", "tokens"), [("stage1", 3328 * 1024), ("stage2", 384 * 8192)])
def test_tokens_per_step_equal_the_paper(name: str, tokens: int) -> None:
    run = load(name)
    rows = run.rows_per_device_batch * run.gradient_accumulation_steps * GPUS
    assert rows * run.sequence_length == tokens
    assert (run.packing, run.decay_norms_and_biases) == ("best_fit", False)
    assert (run.mlm_probability, run.final_mlm_probability) == (0.3, 0.15)
    assert run.lr_scheduler_type.value == "warmup_stable_decay"
    assert run.lr_scheduler_kwargs["decay_type"] == "1-sqrt"


@pytest.mark.parametrize("name", list(SHAPES))
def test_head_size_of_every_shape_is_even_and_at_least_32(name: str) -> None:
    config = model_config(name, vocab_size=1000)
    size, rest = divmod(config.hidden_size, config.num_attention_heads)
    assert rest == size % 2 == 0
    assert size >= 32


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_loads_configuration(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert str(config.compute_environment.value) == "LOCAL_MACHINE"
    machines, processes = {"cpu-2": (1, 2), "gpu-8": (1, 8), "gpu-2x8": (2, 16), "fsdp2": (1, 8)}[path.stem]
    assert (config.num_machines, config.num_processes) == (machines, processes)
    # The loader ignores unknown keys, which would hide a typing error.
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(given) <= set(vars(config))


def test_fsdp_wraps_an_existing_layer_class() -> None:
    import llm_jp_modernbert.modeling.modeling_llm_jp_modernbert as modeling

    settings = yaml.safe_load((FOLDER / "accelerate" / "fsdp2.yaml").read_text(encoding="utf-8"))["fsdp_config"]
    assert hasattr(modeling, settings["fsdp_transformer_layer_cls_to_wrap"])


# Replaces accelerate: a launcher without signal handlers, and a training process that saves on SIGUSR1.
_LAUNCHER = """#!{python}
import json, os, signal, subprocess, sys, time
if "--child" not in sys.argv:
    child = subprocess.run([sys.executable, __file__, "--child", *sys.argv[1:]])
    open({folder!r} + "/launcher", "w").write(str(child.returncode))
    sys.exit(child.returncode)
def save(*_):
    open({folder!r} + "/saved", "w").write("x")
    sys.exit(0)
signal.signal(signal.SIGUSR1, save)
open({folder!r} + "/arguments", "w").write(json.dumps(sys.argv[2:]))
while not os.path.exists({folder!r} + "/session"):
    time.sleep(0.01)
os.kill(os.getsid(0), signal.SIGUSR1)
while True:
    time.sleep(0.1)
"""


def test_slurm_signal_reaches_only_the_training_process_and_requeues_the_job(tmp_path: Path) -> None:
    session = tmp_path / "session"
    commands = {
        "scontrol": f'#!/bin/bash\nif [ "$1" = requeue ]; then echo "$2" > {tmp_path}/requeued; else echo node1; fi\n',
        # As on a cluster, srun starts a process group, and scancel signals all of it.
        "srun": f'#!/bin/bash\nset -m\nshift\n"$@" &\necho $! > {session}.new\nmv {session}.new {session}\nwait $!\n',
        "scancel": f'#!/bin/bash\n[ "$1" = --signal=USR1 ] && kill -USR1 -- "-$(cat {session})"\n',
        "accelerate": _LAUNCHER.format(python=sys.executable, folder=str(tmp_path)),
        "python": f'#!/bin/bash\nexec {sys.executable} "$@"\n',
    }
    environment = slurm_environment(tmp_path / "bin", commands)
    script = ["bash", str(FOLDER / "slurm" / "pretrain.sbatch"), "stage1", "train_data=[a b.gz, c.gz]"]
    # The fake training process signals the leader of its session, which is the script.
    completed = subprocess.run(
        script, env=environment, capture_output=True, text=True, timeout=180, start_new_session=True
    )
    assert completed.returncode == 0, completed.stderr
    arguments = json.loads((tmp_path / "arguments").read_text(encoding="utf-8"))
    assert arguments[arguments.index("-m") :] == [
        *("-m", "llm_jp_modernbert.training.pretrain", "stage1", "train_data=[a b.gz, c.gz]"),
        "resume_from_checkpoint=true",
    ]
    given = {name: arguments[arguments.index(name) + 1] for name in ("--machine_rank", "--num_machines")}
    assert given == {"--machine_rank": "1", "--num_machines": "2"}
    assert arguments[arguments.index("--num_processes") + 1] == "16"
    assert Path(arguments[arguments.index("--config_file") + 1]).is_file()
    assert (tmp_path / "saved").is_file()
    assert (tmp_path / "launcher").read_text(encoding="utf-8") == "0"
    assert (tmp_path / "requeued").read_text(encoding="utf-8") == "77\n"


# Three steps of two devices with two rows each, or of one device with four rows.
STEPS = {"max_steps": 3, "warmup_steps": 1, "logging_steps": 1, "save_strategy": "no", "data_lanes": 2}


@pytest.fixture(scope="module")
def trained_by_one_process(data: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of a run of one process in float32."""
    run = tmp_path_factory.mktemp("one") / "run"
    runs.run(runs.recipe(*data, run, **STEPS))
    return load_file(run / "model.safetensors")


def recipe_for_two(data: Data, folder: Path) -> tuple[Path, Path]:
    """A recipe file that does not say on which devices it runs, and its run directory."""
    keys = runs.recipe(*data, folder / "run", **STEPS, per_device_train_batch_size=2)
    del keys["use_cpu"]
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(keys), encoding="utf-8")
    return path, folder / "run"


def assert_trained_by_two(run: Path, expected: dict[str, torch.Tensor]) -> None:
    """Compares weights up to the order of summation; two ranks add their gradients."""
    stage = json.loads((run / "training.json").read_text(encoding="utf-8"))["stages"][0]
    assert (stage["hardware"]["devices"], stage["rows_per_step"]) == (2, 4)
    weights = load_file(run / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.allclose(weights[name], expected[name], rtol=0, atol=2e-6) for name in expected)


# `gpu-8` differs from the configuration of the SLURM script, which is tested below, only in its numbers.
@pytest.mark.parametrize("configuration", ["cpu-2", "fsdp2"])
def test_launched_run_equals_run_of_one_process(
    data: Data, tmp_path: Path, trained_by_one_process: dict[str, torch.Tensor], configuration: str
) -> None:
    """The recipe has float32, so the bfloat16 of a configuration must not be used. GPUs are replaced by CPUs."""
    recipe, run = recipe_for_two(data, tmp_path)
    options = ["--config_file", str(FOLDER / f"accelerate/{configuration}.yaml"), "--main_process_port", "0"]
    options += [] if configuration == "cpu-2" else ["--num_processes", "2"]
    completed = run_forked(*options, "-m", "llm_jp_modernbert.training.pretrain", recipe, main=launch)
    assert completed.returncode == 0, completed.stderr
    assert_trained_by_two(run, trained_by_one_process)


def test_slurm_script_trains_on_two_nodes(
    data: Data, tmp_path: Path, trained_by_one_process: dict[str, torch.Tensor]
) -> None:
    """Both nodes are this machine, with one process each instead of eight."""
    recipe, run = recipe_for_two(data, tmp_path)
    commands = {
        "scontrol": "#!/bin/bash\necho 127.0.0.1\n",
        "srun": '#!/bin/bash\nshift\nSLURM_NODEID=1 "$@" &\nSLURM_NODEID=0 "$@" || { kill $!; exit 1; }\nwait $!\n',
        "python": f'#!/bin/bash\nexec {sys.executable} "$@"\n',
        "accelerate": f"#!/bin/bash\nshift\nexec {sys.executable} -m accelerate.commands.launch "
        f'--main_process_port {runs.free_port()} "$@"\n',
    }
    completed = subprocess.run(
        ["bash", str(FOLDER / "slurm" / "pretrain.sbatch"), str(recipe)],
        env={**slurm_environment(tmp_path / "bin", commands), "SLURM_GPUS_ON_NODE": "1"},
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr
    assert_trained_by_two(run, trained_by_one_process)


def test_balanced_attention_requires_a_lane_per_rank(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = runs.recipe(*data, tmp_path / "run", balance_attention=True, data_lanes=3)
    recipe = runs.load(keys)
    make_blocks(recipe, make_tokenizer(recipe))
    monkeypatch.setattr(type(recipe), "world_size", 2)
    with pytest.raises(UsageError, match=r"balance_attention: data_lanes=3 is not a multiple .* Set data_lanes=2\."):
        make_blocks(recipe, make_tokenizer(recipe))


def test_error_of_all_processes_is_printed_once() -> None:
    options = ["--main_process_port", "0", "--config_file", FOLDER / "accelerate/cpu-2.yaml"]
    completed = run_forked(*options, "-m", "llm_jp_modernbert.training.pretrain", "stage3", main=launch)
    assert completed.returncode == 1
    (line,) = [line for line in completed.stderr.splitlines() if "Error: stage3" in line]
    assert line.startswith("Error: stage3: no such recipe or file.")


def slurm_environment(folder: Path, commands: dict[str, str]) -> dict[str, str]:
    """The environment of a SLURM job whose commands are replaced by scripts."""
    folder.mkdir()
    for name, content in commands.items():
        (folder / name).write_text(content, encoding="utf-8")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NODEID": "1", "SLURM_NNODES": "2"}
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **job}


@pytest.mark.parametrize(
    ("variables", "words"),
    [({"WORLD_SIZE": "2"}, "RANK is not set"), ({"PMI_SIZE": "2", "PMI_RANK": "0"}, "connects 1")],
)
def test_processes_that_accelerate_does_not_connect_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        load("nano", "use_cpu=false")


def test_attention_is_a_backend_or_one_per_kind_of_layer() -> None:
    assert load("nano").attention is None
    assert load("nano", "attention=eager").attention == "eager"
    assert load("nano", "attention.local=sdpa").attention == {"local": "sdpa"}
    both = load("stage1", "bf16=false", "torch_compile=false", "attention={global: eager, local: flex_attention}")
    assert both.attn_implementation == {"full_attention": "eager", "sliding_attention": "flex_attention"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("attention=3", "attention: 3 is not a string or a mapping."),
        (
            "attention=flash_atention_2",
            "attention: unknown backend 'flash_atention_2'; did you mean flash_attention_2?",
        ),
        ("attention.globl=sdpa", "attention: unknown key 'globl'; did you mean global?"),
        ("attention.local=fast", "attention.local: unknown backend 'fast'; choose one of eager, sdpa, varlen, "),
        ("attention.global=flash_attention_3", "attention.global: flash_attention_3 needs the kernels package"),
    ],
)
def test_wrong_attention_is_named(monkeypatch: pytest.MonkeyPatch, override: str, message: str) -> None:
    monkeypatch.setattr(attention_flash3, "find_spec", lambda _name: None)
    with pytest.raises(UsageError) as error:
        load("nano", override)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("options", [["--cpu"], []])
def test_launcher_that_starts_one_process_of_two_is_refused(
    monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """Without a configuration file, accelerate starts a single process on CPUs, whatever --num_processes says."""
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils import prepare_simple_launcher_cmd_env

    common = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "script.py"]
    for processes in (1, 2):
        arguments = [*options, "--num_processes", str(processes), *common]
        parsed = launch_command_parser().parse_args(arguments)
        parsed.use_cpu = parsed.cpu
        _, environment = prepare_simple_launcher_cmd_env(parsed)
        for name in environment.keys() - os.environ.keys():
            monkeypatch.setenv(name, environment[name])
        if processes == 1:
            load("nano")
    with pytest.raises(UsageError, match="only this one was started"):
        load("nano")
