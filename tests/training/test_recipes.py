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
import yaml

import llm_jp_modernbert.training
from llm_jp_modernbert import LlmJpModernBertConfig
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.recipe.loading import load_recipe, shipped
from llm_jp_modernbert.training.recipe.shapes import SHAPES, change_config, model_config

FOLDER = Path(llm_jp_modernbert.training.__path__[0])
ACCELERATE = sorted((FOLDER / "accelerate").glob("*.yaml"))
GPUS = 16
SECOND = ["nano-stage2", "paper-stage2", "small-stage2", "stage2"]


def needed(name: str) -> list[str]:
    """Overrides with the keys that every user must supply, for a machine without a GPU."""
    start = ["init_from=some/model"] if name in SECOND else ["tokenizer=some/tokenizer"]
    return ["train_data=t.jsonl", "validation_data=v.jsonl", "output_dir=out", "use_cpu=true", *start]


def load(name: str, *overrides: str) -> Any:
    return load_recipe(name, [*needed(name), *overrides])


def test_recipe_names() -> None:
    first = ["nano", "paper-stage1", "small", "stage1"]
    assert shipped() == sorted([*first, *SECOND])


@pytest.mark.parametrize("name", shipped())
def test_recipe_loads_with_its_required_keys(name: str) -> None:
    arguments = load(name)
    assert arguments.stage == ("stage2" if name in SECOND else "stage1")
    assert arguments.sequence_length == (8192 if name in SECOND else 1024)
    if name in SECOND:
        config = LlmJpModernBertConfig()
        change_config(config, arguments.model or {})
        # Only the paper keeps theta in its second stage.
        assert config.global_rope_theta == (10_000 if name == "paper-stage2" else 160_000)
        assert config.local_rope_theta == 10_000
    else:
        assert isinstance(arguments.model, str)
        assert model_config(arguments.model, vocab_size=1000).max_position_embeddings == 8192


@pytest.mark.parametrize("name", shipped())
def test_missing_required_key_is_named(name: str) -> None:
    keys = ["train_data", "output_dir", "init_from" if name in SECOND else "tokenizer"]
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
import json, os, signal, subprocess, sys
if "--child" not in sys.argv:
    child = subprocess.run([sys.executable, __file__, "--child", *sys.argv[1:]])
    open({folder!r} + "/launcher", "w").write(str(child.returncode))
    sys.exit(child.returncode)
def save(*_):
    open({folder!r} + "/saved", "w").write("x")
    sys.exit(0)
signal.signal(signal.SIGUSR1, save)
open({folder!r} + "/arguments", "w").write(json.dumps(sys.argv[2:]))
os.kill(os.getsid(0), signal.SIGUSR1)
signal.pause()
"""


def test_slurm_signal_reaches_only_the_training_process_and_requeues_the_job(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    session = tmp_path / "session"
    commands_by_name = {
        "scontrol": f'#!/bin/bash\nif [ "$1" = requeue ]; then echo "$2" > {tmp_path}/requeued; else echo node1; fi\n',
        # As on a cluster, srun starts a process group, and scancel signals all of it.
        "srun": f'#!/bin/bash\nset -m\n"$@" &\necho $! > {session}\nwait $!\n',
        "scancel": f'#!/bin/bash\n[ "$1" = --signal=USR1 ] && kill -USR1 -- "-$(cat {session})"\n',
        "accelerate": _LAUNCHER.format(python=sys.executable, folder=str(tmp_path)),
        "python": f'#!/bin/bash\nexec {sys.executable} "$@"\n',
    }
    for name, content in commands_by_name.items():
        (commands / name).write_text(content, encoding="utf-8")
        (commands / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        **{"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NODEID": "1"},
    }
    script = ["bash", str(FOLDER / "slurm" / "pretrain.sbatch"), "stage1", "train_data=[a b.gz, c.gz]"]
    # The fake training process signals the leader of its session, which is the script.
    completed = subprocess.run(
        script, env=environment, capture_output=True, text=True, timeout=60, start_new_session=True
    )
    assert completed.returncode == 0, completed.stderr
    arguments = json.loads((tmp_path / "arguments").read_text(encoding="utf-8"))
    assert arguments[arguments.index("-m") :] == [
        *("-m", "llm_jp_modernbert.training.pretrain", "stage1", "train_data=[a b.gz, c.gz]"),
        "resume_from_checkpoint=true",
    ]
    assert arguments[arguments.index("--machine_rank") + 1] == "1"
    assert Path(arguments[arguments.index("--config_file") + 1]).is_file()
    assert (tmp_path / "saved").is_file()
    assert (tmp_path / "launcher").read_text(encoding="utf-8") == "0"
    assert (tmp_path / "requeued").read_text(encoding="utf-8") == "77\n"


def test_launcher_starts_two_processes(tmp_path: Path) -> None:
    """With MULTI_CPU, accelerate would silently start one."""
    script = tmp_path / "count.py"
    script.write_text("import os; open(f'rank-{os.environ[\"RANK\"]}-of-{os.environ[\"WORLD_SIZE\"]}', 'w')")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", str(runs.free_port())]
    launch += ["--config_file", str(FOLDER / "accelerate/cpu-2.yaml"), str(script)]
    completed = subprocess.run(launch, capture_output=True, text=True, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert {path.name for path in tmp_path.glob("rank-*")} == {"rank-0-of-2", "rank-1-of-2"}
