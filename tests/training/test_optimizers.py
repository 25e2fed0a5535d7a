"""Optimizers of this package equal their definitions and torch's, and resume exactly."""

from __future__ import annotations

import copy
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch
from safetensors.torch import load_file
from transformers import Trainer

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training import assembly
from llm_jp_modernbert.training.optimizers import MuonAdamW, StableAdamW
from llm_jp_modernbert.training.run.checkpoints import CheckpointError
from llm_jp_modernbert.training.trainer import PretrainingTrainer

Data = tuple[Path, Path]


def test_stable_adamw_equals_its_definition() -> None:
    """Algorithm 2 of arXiv 2304.13013 in float64, with gradients that suddenly grow."""
    torch.manual_seed(0)
    beta1, beta2, eps, rate, decays = 0.9, 0.95, 1e-6, 0.01, (0.1, 0.0)
    parameters = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(parameters, decays, strict=True)]
    optimizer = StableAdamW(groups, lr=rate, betas=(beta1, beta2), eps=eps)
    weights = [parameter.detach().double().numpy().copy() for parameter in parameters]
    first, second = ([np.zeros_like(weight) for weight in weights] for _ in range(2))
    shortened = []
    for step in range(1, 25):
        for index, parameter in enumerate(parameters):
            parameter.grad = torch.randn_like(parameter) * (10 if step % 7 == 0 else 1)
            gradient = parameter.grad.double().numpy()
            first[index] = beta1 * first[index] + (1 - beta1) * gradient
            second[index] = beta2 * second[index] + (1 - beta2) * gradient**2
            mean, square = first[index] / (1 - beta1**step), second[index] / (1 - beta2**step)
            rms = np.sqrt(np.mean(gradient**2 / np.maximum(square, eps**2)))
            shortened.append(rms > 1)
            own = rate / max(1.0, rms)
            weights[index] -= own * decays[index] * weights[index] + own * mean / (np.sqrt(square) + eps)
        optimizer.step()
    assert 0 < sum(shortened) < len(shortened)
    for parameter, weight in zip(parameters, weights, strict=True):
        assert np.allclose(parameter.detach().numpy(), weight, rtol=0, atol=3e-6)


def test_stable_adamw_equals_adamw_on_shrinking_gradients() -> None:
    """Then the second moment is larger than the gradient, and no step is shortened."""
    torch.manual_seed(0)
    weights, direction = torch.randn(4, 6), torch.randn(4, 6)
    one, other = (torch.nn.Parameter(weights.clone()) for _ in range(2))
    settings: Any = {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1}
    optimizers = StableAdamW([one], **settings), torch.optim.AdamW([other], **settings)
    for step in range(20):
        for parameter, optimizer in zip((one, other), optimizers, strict=True):
            parameter.grad = direction * 0.8**step
            optimizer.step()
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    states = [optimizer.state_dict()["state"][0] for optimizer in optimizers]
    assert states[0].keys() == states[1].keys()
    torch.testing.assert_close(states[0], states[1])


def test_muon_updates_matrices_and_adamw_the_rest() -> None:
    """Both as torch's own optimizers do, also after the state has been saved and loaded."""
    torch.manual_seed(0)
    matrix, vector = torch.randn(6, 4), torch.randn(4)
    pairs = [[torch.nn.Parameter(value.clone()) for value in (matrix, vector)] for _ in range(3)]
    settings: Any = {"lr": 0.02, "betas": (0.9, 0.98), "eps": 1e-6}

    def made(pair: list[torch.nn.Parameter]) -> MuonAdamW:
        first, second = pair
        matrices, others = {"params": [first], "weight_decay": 0.1}, {"params": [second], "weight_decay": 0.0}
        return MuonAdamW([matrices], [others], **settings)

    ours = made(pairs[0])
    muon = torch.optim.Muon([pairs[2][0]], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([pairs[2][1]], weight_decay=0.0, **settings)
    for step in range(10):
        if step == 5:
            with torch.no_grad():
                for parameter, trained in zip(pairs[1], pairs[0], strict=True):
                    parameter.copy_(trained)
            state = copy.deepcopy(ours.state_dict())
            ours = made(pairs[1])
            ours.load_state_dict(state)
        gradients = torch.randn(6, 4), torch.randn(4)
        for pair in (pairs[0] if step < 5 else pairs[1], pairs[2]):
            for parameter, gradient in zip(pair, gradients, strict=True):
                parameter.grad = gradient.clone()
        for optimizer in (ours, muon, adamw):
            optimizer.step()
    for parameter, expected in zip(pairs[1], pairs[2], strict=True):
        torch.testing.assert_close(parameter, expected)


def test_parameters_of_each_optimizer(data: Data, tmp_path: Path) -> None:
    """Muon updates the matrices of the layers; only norms and biases have no weight decay."""
    keys = runs.recipe(*data, tmp_path / "run", optim="muon", weight_decay=0.1)
    recipe = runs.load(keys)
    tokenizer = assembly.make_tokenizer(recipe)
    model = assembly.make_model(recipe, tokenizer)
    trainer = PretrainingTrainer(model, recipe, assembly.make_stream(recipe, tokenizer))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    muon = {names[id(p)] for group in groups if "momentum" in group for p in group["params"]}
    layers = range(model.config.num_hidden_layers)
    matrices = ("attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo")
    assert muon == {f"model.layers.{layer}.{matrix}.weight" for layer in layers for matrix in matrices}
    without_decay = {names[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]}
    assert without_decay == {name for name in names.values() if "norm" in name or name.endswith("bias")}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    assert sorted(names[id(p)] for group in groups for p in group["params"]) == sorted(names.values())


@pytest.mark.parametrize("optim", ["muon", "stable_adamw"])
def test_resumed_run_equals_uninterrupted_run(data: Data, tmp_path: Path, optim: str) -> None:
    changes = {"optim": optim, "max_steps": 20, "gradient_accumulation_steps": 2, "weight_decay": 0.1}
    trainer = runs.run(runs.recipe(*data, tmp_path / "whole", **changes))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert f"optim: {optim}\n" in (tmp_path / "whole" / "recipe.yaml").read_text(encoding="utf-8")
    keys = runs.recipe(*data, tmp_path / "parts", **changes)
    assert runs.run_apart(keys, kill=12) == [-signal.SIGKILL]
    runs.run({**keys, "resume_from_checkpoint": True})
    runs.assert_equal_runs(tmp_path / "whole", tmp_path / "parts", 20)


@pytest.mark.parametrize("optim", ["muon", "stable_adamw"])
def test_two_ranks_equal_one(data: Data, tmp_path: Path, optim: str) -> None:
    changes = {"optim": optim, "max_steps": 6, "data_lanes": 2, "save_strategy": "no", "warmup_steps": 1}
    runs.run(runs.recipe(*data, tmp_path / "one", **changes))
    two = runs.recipe(*data, tmp_path / "two", **{**changes, "per_device_train_batch_size": 2})
    assert runs.run_apart(two, ranks=2) == [0, 0]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    # Muon computes in bfloat16, in which a rounding error of the gradient can be amplified.
    tolerance = 5e-4 if optim == "muon" else 2e-5
    assert all(torch.allclose(one[name], other[name], rtol=0, atol=tolerance) for name in one)


@pytest.mark.parametrize("optim", ["muon", "stable_adamw"])
def test_non_finite_step_changes_nothing(data: Data, tmp_path: Path, optim: str) -> None:
    recipe = runs.load(
        runs.recipe(*data, tmp_path / "run", optim=optim, max_steps=3, max_skipped_steps=1, warmup_steps=0)
    )
    tokenizer = assembly.make_tokenizer(recipe)
    model = assembly.make_model(recipe, tokenizer)
    trainer = PretrainingTrainer(model, recipe, assembly.make_stream(recipe, tokenizer))
    kept: dict[str, Any] = {}

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        if trainer.state.global_step != 1:
            return gradient
        kept["weights"] = copy.deepcopy(model.state_dict())
        kept["state"] = copy.deepcopy(trainer.optimizer.state_dict()["state"])
        return gradient * torch.nan

    def check(*_: Any, **__: Any) -> None:
        if trainer.state.global_step == 1:
            torch.testing.assert_close(dict(model.state_dict()), dict(kept["weights"]), rtol=0, atol=0)
            torch.testing.assert_close(trainer.optimizer.state_dict()["state"], kept["state"], rtol=0, atol=0)
            kept["checked"] = True

    model.head.dense.weight.register_hook(spoil)
    trainer.non_finite.on_optimizer_step = check  # type: ignore[method-assign]
    trainer.train()
    assert kept["checked"]
    assert trainer.totals.skipped_steps == 1


def test_moments_of_another_optimizer_are_refused(data: Data, tmp_path: Path) -> None:
    runs.run(runs.recipe(*data, tmp_path / "first", max_steps=2, warmup_steps=0))
    second = {key: value for key, value in runs.recipe(*data, tmp_path / "second").items() if key != "model"}
    second |= {"init_from": str(tmp_path / "first"), "init_optimizer": "kept"}
    # The state of AdamW is that of StableAdamW.
    assert runs.run({**second, "optim": "stable_adamw", "max_steps": 5}).state.global_step == 5
    with pytest.raises(CheckpointError, match=r"init_optimizer: .* different optim"):
        runs.run({**second, "optim": "muon", "output_dir": str(tmp_path / "third")})


def test_unknown_optimizer_is_named(data: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="optim: unknown value 'moun'; did you mean muon"):
        runs.load({**runs.recipe(*data, tmp_path / "run"), "optim": "moun"})


def test_fsdp_is_refused(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration of the launcher can enable it; on CPUs, accelerate ignores it."""
    create = Trainer.create_accelerator_and_postprocess

    def create_with_fsdp(self: Trainer) -> None:
        create(self)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", create_with_fsdp)
    with pytest.raises(UsageError, match="optim: muon needs whole weights, which FSDP divides"):
        runs.run(runs.recipe(*data, tmp_path / "run", optim="muon"))
