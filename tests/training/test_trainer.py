"""Training steps equal transformers'; limits, signals and failures end a run as documented."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import runs
import torch
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    ModernBertForMaskedLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_scheduler,
)

from llm_jp_modernbert import LlmJpModernBertConfig, LlmJpModernBertForMaskedLM
from llm_jp_modernbert.training import assembly
from llm_jp_modernbert.training.counting import Counter
from llm_jp_modernbert.training.data.readers import find_files, read_documents
from llm_jp_modernbert.training.non_finite import NonFiniteLoss
from llm_jp_modernbert.training.pretrain import pretrain
from llm_jp_modernbert.training.recipe.schedule import Schedule
from llm_jp_modernbert.training.run.checkpoints import CheckpointError
from llm_jp_modernbert.training.trainer import PretrainingTrainer

Data = tuple[Path, Path]


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="llm_jp_modernbert")


def train(keys: dict[str, Any], *callbacks: TrainerCallback) -> PretrainingTrainer:
    return pretrain(runs.load(keys), callbacks=callbacks)


def test_training_learns(data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes = {"max_steps": 100, "learning_rate": 5e-3, "per_device_train_batch_size": 8}
    changes |= {"validation_data": str(data[0]), "eval_strategy": "steps", "eval_steps": 50, "eval_on_start": True}
    keys = runs.recipe(*data, tmp_path / "run", **changes)
    # With the default range, a model of this size stays on the initial plateau for too long.
    keys["model"]["initializer_range"] = 0.1
    trainer = train(keys)
    history = trainer.state.log_history
    measured = [entry for entry in history if "eval_loss" in entry]
    assert [entry["step"] for entry in measured] == [0, 50, 100]
    assert measured[-1]["eval_masked_accuracy"] > measured[0]["eval_baseline_accuracy"] + 0.1
    assert measured[-1]["eval_loss"] < measured[0]["eval_loss"] - 2
    assert trainer.totals.packing_efficiency > 0.9
    assert trainer.state.total_flos == trainer.totals.flops > 0
    assert f"The model is in {tmp_path / 'run'}" in caplog.text
    logged = [entry for entry in history if "loss" in entry][-1]
    assert {"tokens", "padded_tokens", "documents", "epoch", "tokens_per_second", "total_flos", "grad_norm"} <= {
        *logged
    }
    assert type(ModernBertForMaskedLM.from_pretrained(tmp_path / "run")) is ModernBertForMaskedLM


def test_step_equals_transformers_with_padding(data: Data, tmp_path: Path) -> None:
    """Without packing and shuffling, and with the same masks, loss and updated parameters are equal."""
    settings = {"learning_rate": 1e-2, "weight_decay": 0.1, "max_steps": 1, "seed": 3}
    keys = runs.recipe(*data, tmp_path / "ours", packing="none", shuffle=False, per_device_train_batch_size=6)
    keys |= {**settings, "warmup_steps": 0, "lr_scheduler_type": "constant", "long_documents": "truncate"}
    arguments = runs.load({**keys, "save_strategy": "no", "logging_steps": 1})
    tokenizer = assembly.make_tokenizer(arguments)
    texts = [document.text for file in find_files([str(data[0])]) for document in read_documents(file)][:6]
    encoded = [tokenizer(text, truncation=True, max_length=runs.SEQUENCE) for text in texts]
    torch.manual_seed(0)
    drawn = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)(encoded)
    tokens = drawn["attention_mask"].bool()

    torch.manual_seed(1)
    model = assembly.make_model(arguments, tokenizer)
    model.save_pretrained(tmp_path / "start")
    stream = assembly.make_stream(arguments, tokenizer)
    masked = drawn["input_ids"][tokens].numpy(), drawn["labels"][tokens].numpy()

    def their_masks(ids: Any, *_: Any, **__: Any) -> Any:
        predicted = masked[1] != -100
        assert (ids[predicted] == masked[1][predicted]).all()
        return masked

    stream.masking = their_masks  # type: ignore[assignment]
    ours = PretrainingTrainer(model, arguments, stream)
    ours.train()

    peer = ModernBertForMaskedLM.from_pretrained(tmp_path / "start")
    theirs = Trainer(
        peer,
        TrainingArguments(
            str(tmp_path / "theirs"),
            per_device_train_batch_size=1,
            adam_beta2=0.98,
            adam_epsilon=1e-6,
            lr_scheduler_type="constant",
            report_to="none",
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            **settings,
        ),
        train_dataset=[dict(drawn)],
        data_collator=lambda batch: batch[0],
    )
    theirs.train()
    losses = [trainer.state.log_history[0]["loss"] for trainer in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    expected = dict(peer.named_parameters())
    start = load_file(tmp_path / "start" / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, expected[name], rtol=0, atol=1e-5), name
        assert name == "decoder.weight" or not torch.equal(parameter, start[name]), name


def test_batches_are_weighted_by_their_masked_tokens(data: Data, tmp_path: Path) -> None:
    """Rows of very different lengths give the same step as one batch or as eight accumulated batches."""
    changes = {"packing": "none", "max_steps": 3, "logging_steps": 1, "warmup_steps": 1}
    for name, rows, accumulation in (("one-batch", 8, 1), ("eight-batches", 1, 8)):
        sizes = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
        train(runs.recipe(*data, tmp_path / name, **changes, **sizes))
    assert_close(tmp_path / "one-batch", tmp_path / "eight-batches")


def test_two_ranks_equal_one_with_the_same_global_batch(data: Data, tmp_path: Path) -> None:
    changes = {"max_steps": 10, "logging_steps": 1, "validation_data": str(data[0]), "eval_strategy": "steps"}
    changes |= {"eval_steps": 5, "data_lanes": 2}
    train(runs.recipe(*data, tmp_path / "one", **changes))
    two = runs.recipe(*data, tmp_path / "two", **{**changes, "per_device_train_batch_size": 2})
    assert runs.run_apart(two, ranks=2) == [0, 0]
    assert_close(tmp_path / "one", tmp_path / "two")
    histories = [
        json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"] for name in ("one", "two")
    ]
    for one, two_ranks in zip(*histories, strict=True):
        for key in ("eval_loss", "eval_masked_accuracy", "tokens", "documents"):
            if key in one:
                assert one[key] == pytest.approx(two_ranks[key], rel=1e-4), key


def test_mean_over_ranks_is_as_large_as_mean_over_tokens(data: Data, tmp_path: Path) -> None:
    """With average_tokens_across_devices=false, each rank divides by its own labels; their losses are averaged."""
    changes = {"max_steps": 2, "warmup_steps": 0, "logging_steps": 1, "data_lanes": 2, "packing": "none"}
    changes |= {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "save_strategy": "no"}
    figures = {}
    for averaged in (True, False):
        keys = runs.recipe(*data, tmp_path / str(averaged), **changes, average_tokens_across_devices=averaged)
        assert runs.run_apart(keys, ranks=2) == [0, 0]
        state = json.loads((tmp_path / str(averaged) / "trainer_state.json").read_text(encoding="utf-8"))
        figures[averaged] = [[entry[key] for key in ("loss", "grad_norm")] for entry in state["log_history"][:2]]
    assert torch.allclose(*map(torch.tensor, figures.values()), rtol=0.2)
    assert figures[True] != figures[False]


def assert_close(one: Path, other: Path) -> None:
    histories = [json.loads((run / "trainer_state.json").read_text())["log_history"] for run in (one, other)]
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in histories]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    weights = [load_file(run / "model.safetensors") for run in (one, other)]
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], rtol=0, atol=2e-5), name


def test_saved_tokenizer_and_model_agree_on_the_length(data: Data, tmp_path: Path) -> None:
    """Also in a second stage with more positions, and in averages of checkpoints that do not agree."""
    from llm_jp_modernbert.training.run.averaging import average_checkpoints

    first = runs.recipe(*data, tmp_path / "first", max_steps=2, warmup_steps=0, save_steps=1)
    train(first)
    second = {key: value for key, value in first.items() if key not in ("model", "tokenizer")}
    second |= {"init_from": str(tmp_path / "first"), "model": {"max_position_embeddings": 512}}
    train({**second, "output_dir": str(tmp_path / "second"), "sequence_length": 512})
    older = json.loads((tmp_path / "first/checkpoint-2/tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "first/checkpoint-2/tokenizer_config.json").write_text(json.dumps({**older, "model_max_length": 8192}))
    average_checkpoints([tmp_path / "first" / f"checkpoint-{step}" for step in (1, 2)], tmp_path / "average")
    saved = {"first": 128, "first/checkpoint-1": 128, "second": 512, "second/checkpoint-2": 512, "average": 128}
    for name, length in saved.items():
        tokenizer, model = (kind.from_pretrained(tmp_path / name) for kind in (AutoTokenizer, ModernBertForMaskedLM))
        assert tokenizer.model_max_length == model.config.max_position_embeddings == length
        assert tokenizer("今日は天気が良い。" * 200, truncation=True, return_tensors="pt")["input_ids"].shape == (
            1,
            length,
        )


@pytest.mark.parametrize("everything", [False, True])
def test_weight_decay_excludes_norms_and_biases_by_default(data: Data, tmp_path: Path, everything: bool) -> None:
    arguments = runs.load(runs.recipe(*data, tmp_path / "run", decay_norms_and_biases=everything))
    tokenizer = assembly.make_tokenizer(arguments)
    model = assembly.make_model(arguments, tokenizer)
    trainer = PretrainingTrainer(model, arguments, assembly.make_stream(arguments, tokenizer))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    without_decay = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    expected = {name for name in names.values() if "norm" in name or name.endswith("bias")}
    assert without_decay == (set() if everything else expected)
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_max_tokens_ends_run_and_schedule(data: Data, tmp_path: Path) -> None:
    changes = {"max_steps": -1, "max_tokens": 3000, "warmup_steps": 0.1, "logging_steps": 1}
    trainer = train(runs.recipe(*data, tmp_path / "run", **changes))
    tokens = [entry["tokens"] for entry in trainer.state.log_history if "loss" in entry]
    assert tokens[-2] < 3000 <= tokens[-1]
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert max(rates) > 0.8e-3
    assert rates[-1] < 0.15e-3


@pytest.mark.parametrize("name", ["linear", "cosine", "warmup_stable_decay"])
def test_schedule_by_tokens_equals_schedule_by_steps(name: str) -> None:
    """If every step has the same number of tokens, both equal transformers' schedule."""
    specific = {"num_decay_steps": 30, "decay_type": "1-sqrt"} if name == "warmup_stable_decay" else None
    read = 0

    def made(steps: int, warmup: int, specific: dict[str, Any] | None) -> Any:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, get_scheduler(name, optimizer, warmup, steps, specific)

    by_tokens = Schedule(None, max_tokens=10_000, tokens=lambda: read)
    scaled = specific and {**specific, "num_decay_steps": by_tokens.steps(0.3)}
    (steps, one), (tokens, other) = made(100, 10, specific), made(by_tokens.length, by_tokens.steps(0.1), scaled)
    by_tokens.follow(other)
    for step in range(1, 101):
        read = step * 100
        for optimizer, scheduler in ((steps, one), (tokens, other)):
            optimizer.step()
            scheduler.step()
        assert one.get_last_lr() == pytest.approx(other.get_last_lr())
    assert by_tokens.progress(5) == 1.0


class At(TrainerCallback):
    """Calls a function at the end of a step."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.action(kwargs)


def test_logged_rates_and_tokens_add_up_to_the_training_time(data: Data, tmp_path: Path) -> None:
    trainer = train(runs.recipe(*data, tmp_path / "run", max_steps=6, logging_steps=1))
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    tokens = [0, *(entry["tokens"] for entry in logged)]
    rates = [entry["tokens_per_second"] for entry in logged]
    seconds = [(after - before) / rate for (before, after), rate in zip(pairwise(tokens), rates, strict=True)]
    assert min(seconds) > 1e-4
    assert sum(seconds) == pytest.approx(trainer.totals.seconds)


def test_schedule_by_held_out_loss_ends_with_max_tokens(data: Data, tmp_path: Path) -> None:
    changes = {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "max_tokens": 400,
        "warmup_steps": 0,
        "save_strategy": "no",
    }
    changes |= {"eval_strategy": "steps", "eval_steps": 1, "validation_data": str(data[0])}
    assert train(runs.recipe(*data, tmp_path / "run", **changes)).totals.tokens >= 400


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signal_saves_and_stops(data: Data, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    handler = signal.getsignal(getattr(signal, name))
    keys = runs.recipe(*data, tmp_path / "run")
    trainer = train(keys, At(7, lambda _: os.kill(os.getpid(), getattr(signal, name))))
    saved = trainer.state.global_step
    assert saved in (7, 8)
    assert f"{name}: saved after step {saved}. Resume with resume_from_checkpoint=true." in caplog.text
    assert (tmp_path / "run" / f"checkpoint-{saved}" / "seal.json").is_file()
    assert signal.getsignal(getattr(signal, name)) is handler
    trainer = train({**keys, "resume_from_checkpoint": True})
    assert trainer.state.global_step == 40
    assert f"resuming from {tmp_path / 'run' / f'checkpoint-{saved}'}" in caplog.text


def test_only_an_ignored_ctrl_c_stays_ignored(data: Data, tmp_path: Path) -> None:
    """Launchers in Slurm jobs ignore SIGUSR1, and their children inherit that."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        keys = runs.recipe(*data, tmp_path / "run")
        trainer = train(
            keys,
            At(5, lambda _: os.kill(os.getpid(), signal.SIGINT)),
            At(9, lambda _: os.kill(os.getpid(), signal.SIGUSR1)),
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert trainer.state.global_step in (9, 10)


def test_second_ctrl_c_stops_at_once(data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def press(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        # A launcher forwards it at once.
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.1)
        os.kill(os.getpid(), signal.SIGINT)

    keys = runs.recipe(*data, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(keys, At(7, press))
    assert "Ctrl-C: saving after the current step. Press it again" in caplog.text
    assert f"Stopped without saving; {tmp_path / 'run' / 'checkpoint-5'} is intact." in caplog.text
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-5"]
    assert not (tmp_path / "run" / ".saving").exists()
    assert train({**keys, "resume_from_checkpoint": True}).state.global_step == 40


def test_signal_to_one_rank_stops_all(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get_batch_samples = PretrainingTrainer.get_batch_samples

    def signal_second_rank(self: PretrainingTrainer, *args: Any) -> Any:
        if self.state.global_step == 6 and self.args.process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return get_batch_samples(self, *args)

    monkeypatch.setattr(PretrainingTrainer, "get_batch_samples", signal_second_rank)
    assert runs.run_apart(runs.recipe(*data, tmp_path / "run"), ranks=2) == [0, 0]
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-7"]
    # Only a finished run saves the model.
    assert not (tmp_path / "run" / "model.safetensors").exists()


def spoil(kwargs: dict[str, Any]) -> None:
    with torch.no_grad():
        kwargs["model"].head.dense.weight[0, 0] = float("nan")


def test_sums_over_ranks_wait_as_long_as_other_collectives(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.distributed, "new_group", lambda **options: groups.append(options))
    recipe: Any = SimpleNamespace(world_size=2, ddp_timeout=7200)
    Counter(recipe, LlmJpModernBertConfig())
    assert groups == [{"backend": "gloo", "timeout": timedelta(hours=2)}]


def test_figures_are_those_of_the_training_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is not used with use_cpu=true."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**30)
    shared = {"world_size": 1, "bf16": True, "fp16": False}
    for device, has_utilization in (("cpu", False), ("cuda", True)):
        recipe: Any = SimpleNamespace(device=torch.device(device), **shared)
        figures = Counter(recipe, LlmJpModernBertConfig()).figures(1)
        assert ("mfu" in figures) == has_utilization
        assert (figures["peak_memory_gib"] == 3) == has_utilization


def test_non_finite_loss_ends_run_and_names_documents(data: Data, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"step 4: .*not finite.*step-4-rank-0\.json names the batch's documents"):
        train(runs.recipe(*data, tmp_path / "run"), At(3, spoil))
    report = json.loads((tmp_path / "run" / "non_finite" / "step-4-rank-0.json").read_text())
    assert report["losses"] == ["nan"]
    files = {sample["file"] for sample in report["samples"]}
    assert files <= {str(data[0] / f"{number}.jsonl") for number in range(3)}
    assert all(sample["row"] >= 1 for sample in report["samples"])


def test_non_finite_gradient_ends_run(data: Data, tmp_path: Path) -> None:
    """The loss of the step is finite."""

    def spoil_gradient(kwargs: dict[str, Any]) -> None:
        kwargs["model"].head.dense.weight.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))

    with pytest.raises(NonFiniteLoss, match=r"step 4: .*gradient norm nan"):
        train(runs.recipe(*data, tmp_path / "run"), At(3, spoil_gradient))
    report = json.loads((tmp_path / "run" / "non_finite" / "step-4-rank-0.json").read_text())
    assert float(report["losses"][0]) > 0


def test_non_finite_steps_are_skipped_up_to_the_limit(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept: dict[str, Any] = {}

    def spoil_for_a_step(kwargs: dict[str, Any]) -> None:
        kept["weight"] = kwargs["model"].head.dense.weight.detach().clone()
        spoil(kwargs)

    def mend(kwargs: dict[str, Any]) -> None:
        weight = kwargs["model"].head.dense.weight
        # The optimizer changed nothing.
        assert torch.equal(
            weight.isnan(),
            torch.zeros_like(weight, dtype=torch.bool).index_put(
                (torch.tensor([0]), torch.tensor([0])), torch.tensor(True)
            ),
        )
        with torch.no_grad():
            weight.copy_(kept["weight"])

    keys = runs.recipe(*data, tmp_path / "run", max_skipped_steps=1, max_steps=8, logging_steps=1)
    trainer = train(keys, At(3, spoil_for_a_step), At(4, mend))
    assert trainer.totals.skipped_steps == 1
    assert "step 4 is skipped" in caplog.text
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[3] == 0.0
    assert all(loss > 1 for index, loss in enumerate(losses) if index != 3)


def test_all_ranks_skip_a_step_whose_loss_is_not_finite_on_one(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient is finite, and the loss on the other rank as well."""
    training_step = Trainer.training_step

    def spoiled(self: PretrainingTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = training_step(self, *args, **kwargs)
        is_last_rank = self.args.process_index == self.args.world_size - 1
        return loss * torch.inf if is_last_rank and self.state.global_step == 3 else loss

    monkeypatch.setattr(Trainer, "training_step", spoiled)
    changes = {"max_steps": 8, "max_skipped_steps": 1, "data_lanes": 2, "save_steps": 8}
    train(runs.recipe(*data, tmp_path / "one", **changes))
    two = runs.recipe(*data, tmp_path / "two", **{**changes, "per_device_train_batch_size": 2})
    assert runs.run_apart(two, ranks=2) == [0, 0]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert all(torch.allclose(weight, weights[1][name], rtol=0, atol=2e-5) for name, weight in weights[0].items())
    for rank, losses in enumerate(([True], [False])):
        state = json.loads((tmp_path / "two" / "checkpoint-8" / "data.json").read_text())["ranks"][rank]
        assert state["totals"]["skipped_steps"] == 1
        report = json.loads((tmp_path / "two" / "non_finite" / f"step-4-rank-{rank}.json").read_text())
        assert [math.isfinite(float(loss)) for loss in report["losses"]] == losses


def test_step_before_a_checkpoint_is_checked_before_it_is_saved(data: Data, tmp_path: Path) -> None:
    """Losses are read one step late, but nothing is saved after a step that ends the run."""
    with pytest.raises(NonFiniteLoss, match="step 5: "):
        train(runs.recipe(*data, tmp_path / "run", logging_steps=100), At(4, spoil))
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_non_finite_step_changes_neither_weights_nor_moments(data: Data, tmp_path: Path, optim: str) -> None:
    changes = {"max_steps": 4, "max_skipped_steps": 1, "logging_steps": 100, "save_steps": 1, "optim": optim}

    def spoil_gradient(kwargs: dict[str, Any]) -> None:
        weight = kwargs["model"].head.dense.weight
        handle = weight.register_hook(lambda gradient: handle.remove() or gradient * torch.inf)

    assert train(runs.recipe(*data, tmp_path / "run", **changes), At(2, spoil_gradient)).totals.skipped_steps == 1
    saved = [tmp_path / "run" / f"checkpoint-{step}" for step in (2, 3, 4)]
    weights = [load_file(folder / "model.safetensors") for folder in saved]
    states = [torch.load(folder / "optimizer.pt", weights_only=True)["state"] for folder in saved]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert not torch.equal(weights[1]["head.dense.weight"], weights[2]["head.dense.weight"])


def test_full_disk_keeps_the_previous_checkpoint(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = LlmJpModernBertForMaskedLM.save_pretrained

    def full(self: Any, directory: str, *args: Any, **kwargs: Any) -> Any:
        saved(self, directory, *args, **kwargs)
        if "checkpoint-10" in str(directory):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(LlmJpModernBertForMaskedLM, "save_pretrained", full)
    keys = runs.recipe(*data, tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"checkpoint-10 could not be written \(.*No space left.*checkpoint-5 is intact"
    ):
        train(keys)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["checkpoint-5", "recipe.yaml", "run.json"]
    monkeypatch.undo()
    trainer = train({**keys, "resume_from_checkpoint": True})
    assert trainer.state.global_step == 40


def test_second_stage_keeps_moments_of_the_first(data: Data, tmp_path: Path) -> None:
    first = runs.recipe(*data, tmp_path / "first", max_steps=10)
    train(first)
    second = {key: value for key, value in first.items() if key not in ("model", "tokenizer")}
    second |= {"output_dir": str(tmp_path / "second"), "init_from": str(tmp_path / "first"), "stage": "stage2"}
    second |= {"model": {"global_rope_theta": 160000.0}, "sequence_length": 128, "learning_rate": 0.0, "max_steps": 5}
    second |= {"init_optimizer": "kept", "mlm_probability": 0.15, "learning_rate": 1e-12}
    trainer = train(second)
    theta = ModernBertForMaskedLM.from_pretrained(tmp_path / "second").config.rope_parameters
    assert theta["full_attention"]["rope_theta"] == 160000
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("first", "second")]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-6) for name in weights[0])
    steps = {int(state["step"]) for state in trainer.optimizer.state.values()}
    assert steps == {15}
    fresh = train({**second, "init_optimizer": "fresh", "output_dir": str(tmp_path / "fresh")})
    assert {int(state["step"]) for state in fresh.optimizer.state.values()} == {5}
    ModernBertForMaskedLM.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "alone")
    without_optimizer = {
        "output_dir": str(tmp_path / "third"),
        "init_from": str(tmp_path / "alone"),
        "tokenizer": str(data[1]),
    }
    with pytest.raises(CheckpointError, match=r"init_optimizer: .* holds no matching optimizer state"):
        train({**second, **without_optimizer})


def test_final_mlm_probability_applies_during_decay(data: Data, tmp_path: Path) -> None:
    changes = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 0.5}}
    changes |= {"final_mlm_probability": 0.1, "logging_steps": 1, "per_device_train_batch_size": 16}
    arguments = runs.load(runs.recipe(*data, tmp_path / "run", **changes))
    stream = assembly.make_stream(arguments, assembly.make_tokenizer(arguments))
    shares = []
    for _, batch in zip(range(40), stream.batches(), strict=False):
        info = batch["info"]
        shares.append(info.labels / (info.tokens - 2 * len(info.lengths)))
    assert 0.27 < sum(shares[:20]) / 20 < 0.33
    assert 0.08 < sum(shares[20:]) / 20 < 0.12


def test_batch_grows_during_warmup(data: Data, tmp_path: Path) -> None:
    arguments = runs.load(runs.recipe(*data, tmp_path / "run", batch_warmup_steps=8, gradient_accumulation_steps=2))
    stream = assembly.make_stream(arguments, assembly.make_tokenizer(arguments))
    rows = [batch["info"].room // runs.SEQUENCE for _, batch in zip(range(20), stream.batches(2), strict=False)]
    assert rows == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4]


def test_keep_steps_are_not_rotated(data: Data, tmp_path: Path) -> None:
    keys = runs.recipe(*data, tmp_path / "run", max_steps=20, save_steps=5, save_total_limit=1, keep_steps=[0, 7])
    untrained = assembly.make_model(runs.load(keys), assembly.make_tokenizer(runs.load(keys)), None)
    names = set(untrained.state_dict())
    train(keys)
    kept = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert kept == ["checkpoint-0", "checkpoint-20", "checkpoint-7"]
    first, last = (ModernBertForMaskedLM.from_pretrained(tmp_path / "run" / name) for name in (kept[0], kept[1]))
    assert set(first.state_dict()) == names
    assert (first.head.norm.weight == 1).all()
    assert not (last.head.norm.weight == 1).all()


def test_compiled_layers_train_like_uncompiled(data: Data, tmp_path: Path) -> None:
    changes = {"max_steps": 6, "validation_data": str(data[0]), "eval_strategy": "steps", "eval_steps": 3}
    for name, more in (("plain", {}), ("compiled", {"torch_compile": True, "torch_compile_backend": "eager"})):
        trainer = train(runs.recipe(*data, tmp_path / name, **changes, **more))
        assert trainer.model._is_compiled == bool(more)
    plain, compiled = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "compiled"))
    assert all(torch.allclose(plain[name], compiled[name], atol=1e-5) for name in plain)
