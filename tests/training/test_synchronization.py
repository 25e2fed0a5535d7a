"""The host reads no value of the device in a step, except when it logs, and batches are assembled ahead of time."""

from __future__ import annotations

import signal
import traceback
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainerCallback

import llm_jp_modernbert.modeling
from llm_jp_modernbert.training import assembly
from llm_jp_modernbert.training.data.read_ahead import read_ahead
from llm_jp_modernbert.training.non_finite import NonFiniteCallback
from llm_jp_modernbert.training.pretrain import pretrain
from llm_jp_modernbert.training.trainer import PretrainingTrainer

Data = tuple[Path, Path]

MODELING = str(Path(llm_jp_modernbert.modeling.__path__[0]))
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero")
METHODS = {torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.nonzero}
METHODS |= {torch.Tensor.__bool__, torch.Tensor.__float__, torch.Tensor.__int__, torch.Tensor.__index__, torch.tensor}


class Reads(TrainerCallback):
    """Collects the functions that read a tensor on the host, by step."""

    def __init__(self) -> None:
        self.step, self.by_step = 1, {}

    def add(self, name: str) -> None:
        stack = [frame for frame in traceback.extract_stack() if "torch/" not in frame.filename]
        # The model reads tensors that are on the host, as all are here. On a GPU, it does not: see its own tests.
        if name != "aten::nonzero" and any(frame.filename.startswith(MODELING) for frame in stack):
            return
        # Values of the step before, which the device has copied to the host.
        if any(frame.name == NonFiniteCallback.read.__name__ for frame in stack):
            return
        self.by_step.setdefault(self.step, []).append(name)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not control.should_log:
            self.step += 1

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step += 1


class Dispatched(TorchDispatchMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in READS:
            self.reads.add(func.name())
        return func(*args, **(kwargs or {}))


class Called(TorchFunctionMode):
    """Some reads of tensors on a CPU are not dispatched."""

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in METHODS:
            self.reads.add(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("accumulation", [1, 3])
def test_step_reads_nothing_from_the_device(data: Data, tmp_path: Path, accumulation: int) -> None:
    changes = {"max_steps": 9, "warmup_steps": 0, "logging_steps": 3, "save_strategy": "no", "model": "nano"}
    changes |= {"gradient_accumulation_steps": accumulation, "max_skipped_steps": 1}
    recipe = runs.load(runs.recipe(*data, tmp_path / "run", **changes))
    tokenizer = assembly.make_tokenizer(recipe)
    model, stream = assembly.make_model(recipe, tokenizer), assembly.make_stream(recipe, tokenizer)
    reads = Reads()
    trainer = PretrainingTrainer(model, recipe, stream, callbacks=[reads])
    with Called(reads), Dispatched(reads):
        trainer.train()
    # Trainer reads the mean loss and the gradient norm in the steps that it logs.
    logged = Counter({"item": 2, "aten::_local_scalar_dense": 2})
    # The first step starts the loader, the last one ends the training.
    assert {step: Counter(names) for step, names in reads.by_step.items() if 1 < step < 9} == {3: logged, 6: logged}


def test_batches_are_on_the_device_before_the_step(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer copies what is not, and waits for it."""
    positions = []
    training_step = Trainer.training_step

    def step(self: Any, model: Any, inputs: dict[str, Any], *args: Any) -> Any:
        assert all(value.device == self.args.device for value in inputs.values() if isinstance(value, torch.Tensor))
        assert torch.equal(inputs["label_positions"], (inputs["labels"][0] != -100).nonzero().squeeze(1))
        positions.append(inputs["label_positions"])
        return training_step(self, model, inputs, *args)

    monkeypatch.setattr(Trainer, "training_step", step)
    runs.run(runs.recipe(*data, tmp_path / "run", max_steps=2, warmup_steps=0))
    assert len(positions) == 2


get_train_dataloader = PretrainingTrainer.get_train_dataloader


def ahead(self: PretrainingTrainer) -> Any:
    """Batches as for a GPU, except for the page-locked memory."""
    batches = get_train_dataloader(self)
    batches.ahead = 4
    return batches


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_with_batches_ahead_equals_uninterrupted_run(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """A checkpoint has the position after the batches of its last step, not after those that wait."""
    changes = {"max_steps": 20, "gradient_accumulation_steps": 2, "dataloader_num_workers": workers}
    if workers:
        changes["dataloader_prefetch_factor"] = 1
    runs.run(runs.recipe(*data, tmp_path / "whole", **changes), tmp_path / "whole.samples")
    monkeypatch.setattr(PretrainingTrainer, "get_train_dataloader", ahead)
    keys = runs.recipe(*data, tmp_path / "parts", **changes)
    assert runs.run_apart(keys, tmp_path / "parts.samples", kill=12.5) == [-signal.SIGKILL]
    runs.run({**keys, "resume_from_checkpoint": True}, tmp_path / "parts.samples")
    runs.assert_equal_runs(tmp_path / "whole", tmp_path / "parts", 20)
    assert runs.samples_by_step(tmp_path / "whole.samples") == runs.samples_by_step(tmp_path / "parts.samples")


def test_error_of_the_data_is_raised_with_batches_ahead(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PretrainingTrainer, "get_train_dataloader", ahead)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "今日は天気が良い。"}\n{', encoding="utf-8")
    keys = runs.recipe(broken, data[1], tmp_path / "run", strict=True)
    with pytest.raises(ValueError, match=r"broken\.jsonl.*row 2: not JSON"):
        pretrain(runs.load(keys))


def test_items_are_made_ahead_in_order() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    items = read_ahead(numbers(), 3)
    assert list(islice(items, 5)) == [0, 1, 2, 3, 4]
    items.close()
    # At most those that were requested.
    assert made == list(range(len(made)))
    assert 5 <= len(made) <= 8
