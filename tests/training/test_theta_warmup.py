"""Theta warm-up moves the RoPE theta with the steps; checkpoints have the theta of their weights."""

from __future__ import annotations

import json
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from tiny_models import tiny_config
from torch._dynamo.testing import CompileCounter
from transformers import AutoTokenizer, ModernBertForMaskedLM, TrainerCallback, TrainerControl, TrainerState

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.pretrain import pretrain
from llm_jp_modernbert.training.theta_warmup import ThetaWarmupCallback

Data = tuple[Path, Path]
END = 160_000.0


@pytest.fixture(scope="module")
def start(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a theta of 10,000."""
    folder = tmp_path_factory.mktemp("start") / "model"
    torch.manual_seed(0)
    # Scores that are large enough for positions to matter.
    config = tiny_config(vocab_size=len(AutoTokenizer.from_pretrained(data[1])), initializer_range=0.2)
    LlmJpModernBertForMaskedLM(config).save_pretrained(folder, format="plain")
    return folder


def keys_of(data: Data, out: Path, start: Path, **changes: Any) -> dict[str, Any]:
    keys = {"model": {"global_rope_theta": END}, "init_from": str(start), "theta_warmup_steps": 8, "max_steps": 10}
    keys |= {"warmup_steps": 0, "save_steps": 1, "save_total_limit": None}
    return runs.recipe(*data, out, **{**keys, **changes})


def saved_theta(folder: Path) -> float:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    theta: float = config["rope_parameters"]["full_attention"]["rope_theta"]
    assert config["global_rope_theta"] == theta
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 1e4
    return theta


class Thetas(TrainerCallback):
    """Records the frequencies that steps are computed with."""

    def __init__(self) -> None:
        self.frequencies: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.frequencies.append(dict(model.named_buffers())["model.rotary_emb.full_attention_inv_freq"].clone())


def test_checkpoints_have_the_theta_of_their_weights(data: Data, tmp_path: Path, start: Path) -> None:
    thetas = Thetas()
    pretrain(runs.load(keys_of(data, tmp_path / "run", start, keep_steps=[0])), callbacks=[thetas])
    saved = [saved_theta(tmp_path / "run" / f"checkpoint-{step}") for step in range(11)]
    expected = [1e4 * 16 ** (step / 8) for step in range(8)] + [END] * 3
    assert saved == pytest.approx(expected, rel=1e-12)
    assert saved[8:] == [END] * 3
    assert saved_theta(tmp_path / "run") == END
    head = 16
    for step, frequencies in enumerate(thetas.frequencies):
        powers = torch.arange(0, head, 2, dtype=torch.float64) / head
        assert torch.allclose(frequencies.double(), saved[step + 1] ** -powers, rtol=1e-5)


def test_transformers_loads_a_checkpoint_of_the_warmup(data: Data, tmp_path: Path, start: Path) -> None:
    """Both classes give the held-out loss that the run has logged."""
    changes = {"max_steps": 4, "theta_warmup_steps": 3, "save_steps": 2, "learning_rate": 1e-2}
    changes |= {"validation_data": str(data[0]), "eval_strategy": "steps", "eval_steps": 2}
    trainer = runs.run(keys_of(data, tmp_path / "run", start, **changes))
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    checkpoint = tmp_path / "run" / "checkpoint-2"
    ours = LlmJpModernBertForMaskedLM.from_pretrained(checkpoint)
    assert trainer.validation.measure(ours, runs.SEQUENCE).loss == pytest.approx(losses[0], abs=1e-6)
    ours.config.global_rope_theta = END
    ours.base_model.rotary_emb.reset_parameters()
    assert trainer.validation.measure(ours, runs.SEQUENCE).loss != pytest.approx(losses[0], abs=1e-6)
    ours, theirs = (
        model.from_pretrained(checkpoint).eval() for model in (LlmJpModernBertForMaskedLM, ModernBertForMaskedLM)
    )
    ids = torch.randint(10, 300, (1, 60))
    with torch.no_grad():
        assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-4)


def test_run_killed_in_the_warmup_equals_uninterrupted_run(data: Data, tmp_path: Path, start: Path) -> None:
    """The model that the run started from is not needed again."""
    source = tmp_path / "source"
    LlmJpModernBertForMaskedLM.from_pretrained(start).save_pretrained(source, format="plain")
    runs.run(keys_of(data, tmp_path / "whole", source, save_steps=2))
    parts = keys_of(data, tmp_path / "parts", source, save_steps=2)
    assert runs.run_apart(parts, kill=5) == [-signal.SIGKILL]
    AutoTokenizer.from_pretrained(data[1]).save_pretrained(source)
    (source / "model.safetensors").unlink()
    (source / "config.json").unlink()
    for kill in (7, None):
        runs.run_apart({**parts, "resume_from_checkpoint": True}, kill=kill)
    runs.assert_equal_runs(tmp_path / "whole", tmp_path / "parts", 10)
    for step in (6, 8, 10):
        assert len({saved_theta(tmp_path / name / f"checkpoint-{step}") for name in ("whole", "parts")}) == 1


def test_steps_of_the_warmup_compile_nothing(data: Data, tmp_path: Path, start: Path) -> None:
    torch._dynamo.reset()
    compilations, counts, outputs = CompileCounter(), [], []
    model = LlmJpModernBertForMaskedLM.from_pretrained(start)
    warmup = ThetaWarmupCallback(model, runs.load(keys_of(data, tmp_path / "run", start)))
    model.compile_layers(backend=compilations)
    ids = torch.randint(10, 300, (1, 60))
    for step in range(9):
        warmup.on_step_begin(None, TrainerState(global_step=step), TrainerControl())
        outputs.append(model(ids).logits)
        counts.append(compilations.frame_count)
    torch._dynamo.reset()
    assert counts == [counts[0]] * 9
    assert counts[0] > 0
    assert all(not torch.allclose(*pair, atol=1e-4) for pair in pairwise(outputs[:8]))


def test_equal_thetas_are_refused(data: Data, tmp_path: Path, start: Path) -> None:
    with pytest.raises(UsageError, match=r"global_rope_theta=10000 is already the theta of .*model\."):
        runs.run(keys_of(data, tmp_path / "run", start, model={"global_rope_theta": 10000}))
