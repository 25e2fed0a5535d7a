"""Retrieval training resumes exactly, and an epoch has all examples, whatever their texts."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

pytest.importorskip("sentence_transformers")
from datasets import Dataset

from llm_jp_modernbert.training.finetuning.finetune.base import open_base
from llm_jp_modernbert.training.finetuning.finetune.folder import Folder
from llm_jp_modernbert.training.retrieval.arguments import retrieval_arguments
from llm_jp_modernbert.training.retrieval.job import Job
from llm_jp_modernbert.training.retrieval.loading import load_data
from llm_jp_modernbert.training.retrieval.options import (
    EmbedderOptions,
    LateInteractionOptions,
    RerankerOptions,
    RetrievalOptions,
    SparseOptions,
)
from llm_jp_modernbert.training.retrieval.registry import kind_of
from llm_jp_modernbert.training.retrieval.trainer import (
    DistinctBatches,
    RetrievalTrainer,
    ShuffledBatches,
    train_model,
)
from llm_jp_modernbert.training.run.checkpoints import StopSignals, newest_sound

ANIMALS, PLACES = ["猫", "犬", "鳥", "魚", "馬"], ["駅", "港", "丘", "川", "森"]


def rows_of(form: str) -> list[dict[str, Any]]:
    """Twenty-five examples of a form of data."""
    rows: list[dict[str, Any]] = []
    for number in range(25):
        animal, place = ANIMALS[number % 5], PLACES[number // 5]
        text = f"{place}には{animal}がいる。その{animal}は{place}が好きだ。"
        pair = {"query": f"{place}の{animal}はどこ？{number}", "passage": text}
        rows.append(
            {
                "pairs": pair,
                "scored": {"sentence1": text, "sentence2": f"{animal}がいる。{number}", "score": number % 6},
                "texts": {"text": text},
            }[form]
        )
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


class StopAt(TrainerCallback):
    """Sends SIGTERM to this process in a step, or ends training as if the process had been killed."""

    def __init__(self, step: int, is_killed: bool = False) -> None:
        self.step, self.is_killed = step, is_killed

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            if self.is_killed:
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)


KINDS: dict[str, type[RetrievalOptions]] = {
    "embedder": EmbedderOptions,
    "reranker": RerankerOptions,
    "sparse": SparseOptions,
    "late-interaction": LateInteractionOptions,
}


def train(
    base: Path, source: str, out: Path, keys: list[str], callback: StopAt | None = None, name: str = "embedder"
) -> RetrievalTrainer:
    """Trains a model, or continues the training in a directory."""
    options = KINDS[name](str(base), ["learning_rate=1e-3", "logging_steps=1", *keys], train=[source], out=out)
    kind = kind_of(options)
    data = load_data(options, kind.forms)
    defaults = kind.trainer_arguments(data.train.form)
    arguments = retrieval_arguments(options, out, options.seed, defaults)
    opened = open_base(str(base))
    job = Job(options, kind, opened, data, Folder(out), arguments)
    model = kind.build(opened, options.seed, data.train.form)
    with StopSignals().listening() as stop:
        return train_model(job, model, arguments, newest_sound(out), [callback] if callback is not None else [], stop)


def assert_equal_runs(trainer: RetrievalTrainer, other: RetrievalTrainer) -> None:
    """Bit for bit."""
    assert trainer.state.global_step == other.state.global_step
    expected = other.model.state_dict()
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, expected[name]), name
    evaluations = [[row for row in run.state.log_history if "eval_examples" in row] for run in (trainer, other)]
    assert evaluations[0] == evaluations[1]


@pytest.mark.parametrize(
    ("form", "step", "is_killed", "keys"),
    [
        # Within the second epoch, also with accumulated batches, and at its end.
        ("texts", 5, False, ["num_train_epochs=2", "per_device_train_batch_size=8"]),
        ("scored", 4, True, ["num_train_epochs=2", "per_device_train_batch_size=4", "gradient_accumulation_steps=2"]),
        ("pairs", 6, False, ["num_train_epochs=3", "per_device_train_batch_size=8"]),
        ("pairs", 6, True, ["num_train_epochs=3", "per_device_train_batch_size=8"]),
    ],
)
def test_resuming_equals_uninterrupted_run(
    modernbert: Path, tmp_path: Path, form: str, step: int, is_killed: bool, keys: list[str]
) -> None:
    """After a signal or a kill, with the dropout of texts alone, and with the best weights of earlier epochs."""
    source = write(tmp_path / "train.jsonl", rows_of(form))
    if is_killed:
        keys = [*keys, "save_strategy=steps", "save_steps=2"]
    whole = train(modernbert, source, tmp_path / "whole", keys)
    with suppress(KeyboardInterrupt):
        stopped = train(modernbert, source, tmp_path / "run", keys, StopAt(step, is_killed))
        assert stopped.stopping
        assert stopped.state.global_step == step
    assert len(list((tmp_path / "run").iterdir())) == 1
    assert_equal_runs(train(modernbert, source, tmp_path / "run", keys), whole)


@pytest.mark.parametrize("name", ["reranker", "sparse", "late-interaction"])
def test_every_type_of_model_resumes_exactly(modernbert: Path, tmp_path: Path, name: str) -> None:
    """Within the second epoch, also the schedule of the sparsity."""
    source = write(tmp_path / "train.jsonl", rows_of("pairs"))
    keys = ["num_train_epochs=3", "per_device_train_batch_size=8"]
    whole = train(modernbert, source, tmp_path / "whole", keys, name=name)
    assert train(modernbert, source, tmp_path / "run", keys, StopAt(4), name).stopping
    assert_equal_runs(train(modernbert, source, tmp_path / "run", keys, name=name), whole)


def batches(sampler: Any, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("kind", [ShuffledBatches, DistinctBatches])
def test_order_is_a_function_of_seed_and_epoch(kind: Any) -> None:
    data = Dataset.from_list([{"query": f"q{number}", "passage": f"p{number}"} for number in range(20)])

    def sampler(seed: int) -> Any:
        return kind(data, batch_size=6, drop_last=False, generator=torch.Generator(), seed=seed)

    first = sampler(1)
    orders = [batches(first, epoch) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] == batches(sampler(1), 0)
    assert orders[1] == batches(sampler(1), 1)
    assert orders[0] != orders[1]
    assert batches(sampler(2), 0) != orders[0]
    for order in orders:
        assert sorted(index for batch in order for index in batch) == list(range(20))
        assert len(order) == len(first) == 4


def test_no_batch_repeats_a_frequent_passage_almost_alone() -> None:
    """Batches of one example, whose loss is 0, would take most steps of the epoch."""
    passages = [f"p{number}" for number in range(200)] + ["frequent"] * 60
    data = Dataset.from_list([{"query": f"q{place}", "passage": text} for place, text in enumerate(passages)])
    sampler = DistinctBatches(data, batch_size=20, drop_last=False, generator=torch.Generator(), seed=1)
    for epoch in (0, 1):
        order = batches(sampler, epoch)
        assert len(order) == len(sampler) < 15
        assert min(map(len, order)) > 1
        assert len({index for batch in order for index in batch if index < 200}) == 200


def test_examples_that_share_passages_are_all_in_an_epoch() -> None:
    """No batch has the same passage twice, though only three can be together."""
    data = Dataset.from_list([{"query": f"q{number}", "passage": f"p{number % 3}"} for number in range(30)])
    sampler = DistinctBatches(data, batch_size=16, drop_last=False, generator=torch.Generator(), seed=1)
    order = batches(sampler, 0)
    assert len(order) == len(sampler)
    assert sorted(index for batch in order for index in batch) == list(range(30))
    assert all(len({index % 3 for index in batch}) == len(batch) for batch in order)
