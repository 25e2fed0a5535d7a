"""A resumed run equals an uninterrupted one, bit for bit."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch
from transformers import TrainingArguments

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.run.checkpoints import CheckpointError, checkpoints, newest_sound
from llm_jp_modernbert.training.run.run_directory import open_run


def interrupted(keys: dict[str, Any], record: Path, kills: list[float], ranks: int = 1) -> None:
    """Trains to the end, with the process killed after each of the given steps."""
    again = {**keys, "resume_from_checkpoint": True}
    for kill in kills:
        # The other rank may fail first, because it cannot reach the killed one.
        assert -signal.SIGKILL in runs.run_apart(again, record, kill, ranks)
    assert set(runs.run_apart(again, record, None, ranks)) == {0}


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 2)])
def test_resuming_twice_equals_uninterrupted_run(
    data: tuple[Path, Path], tmp_path: Path, ranks: int, workers: int
) -> None:
    model = {**runs.recipe(*data, tmp_path)["model"], **runs.DROPOUT}
    changes = {"dataloader_num_workers": workers, "per_device_train_batch_size": 2 // ranks}
    changes |= {"gradient_accumulation_steps": 2, "model": model}
    whole = runs.recipe(*data, tmp_path / "whole", **changes)
    parts = runs.recipe(*data, tmp_path / "parts", **changes)
    if ranks == 1:
        runs.run(whole, tmp_path / "whole.samples")
    else:
        assert runs.run_apart(whole, tmp_path / "whole.samples", ranks=ranks) == [0, 0]
    # In the first epoch between two batches of a step, and in the second or third.
    interrupted(parts, tmp_path / "parts.samples", [17.5, 33], ranks)
    runs.assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    samples = [runs.samples_by_step(tmp_path / f"{name}.samples", ranks) for name in ("whole", "parts")]
    assert samples[0] == samples[1]
    assert list(samples[0]) == list(range(1, 41))
    epochs = {sample[1] for step in samples[0].values() for rank in step for batch in rank for sample in batch}
    assert epochs >= {0, 1, 2}


def test_random_numbers_drawn_between_steps_do_not_change_the_run(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation at the start, probes and callbacks may draw, in the run or only after it is resumed."""
    from llm_jp_modernbert.training.callbacks import ProgressCallback

    def draw(*args: Any, **kwargs: Any) -> None:
        random.random()
        np.random.rand()
        torch.rand(3)

    keys = {**runs.recipe(*data, tmp_path / "plain", max_steps=12)}
    keys["model"] = {**keys["model"], **runs.DROPOUT}
    runs.run(keys)
    for event in ("on_train_begin", "on_epoch_begin", "on_step_begin", "on_step_end", "on_save", "on_log"):
        monkeypatch.setattr(ProgressCallback, event, draw)
    drawing = {**keys, "output_dir": str(tmp_path / "drawing"), "validation_data": str(data[0])}
    drawing |= {"eval_strategy": "steps", "eval_steps": 4, "eval_on_start": True}
    assert runs.run_apart(drawing, kill=7) == [-signal.SIGKILL]
    runs.run({**drawing, "resume_from_checkpoint": True})
    runs.assert_equal_runs(tmp_path / "plain", tmp_path / "drawing", 12)


@pytest.mark.parametrize("logging_steps", [1, 4])
def test_train_loss_of_a_resumed_run_is_the_mean_of_its_own_steps(
    data: tuple[Path, Path], tmp_path: Path, logging_steps: int
) -> None:
    keys = runs.recipe(*data, tmp_path / "run", max_steps=14, logging_steps=logging_steps)
    assert runs.run_apart({**keys, "logging_steps": 1}, kill=7) == [-signal.SIGKILL]
    steps: list[float] = []
    trainer = runs.run({**keys, "resume_from_checkpoint": True}, losses=steps)
    assert len(steps) == 9
    (logged,) = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    assert logged == pytest.approx(sum(steps) / 9, rel=1e-6)


def test_run_in_use_is_refused_and_a_killed_one_resumes_at_once(data: tuple[Path, Path], tmp_path: Path) -> None:
    keys = runs.recipe(*data, tmp_path / "run", max_steps=100_000, dataloader_num_workers=2)
    keys |= {"resume_from_checkpoint": True, "save_steps": 10}
    process = multiprocessing.get_context("fork").Process(target=runs.run, args=(keys,))
    process.start()
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoint-10").is_dir() and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(UsageError, match=r"run: another pretrain is writing it\. Wait"):
            runs.run(keys)
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
    saved = checkpoints(tmp_path / "run")[-1]
    # Its workers may still live.
    keys["max_steps"] = 100_001
    with pytest.raises(UsageError, match="max_steps: 100000 then, 100001 now"):
        runs.run(keys)
    assert checkpoints(tmp_path / "run")[-1] == saved


def test_edited_corpus_is_named_on_resuming(data: tuple[Path, Path], tmp_path: Path) -> None:
    corpus = Path(shutil.copytree(data[0], tmp_path / "corpus"))
    keys = runs.recipe(corpus, data[1], tmp_path / "run", max_steps=10)
    assert runs.run_apart(keys, kill=7) == [-signal.SIGKILL]
    again = {**keys, "resume_from_checkpoint": True}
    file = corpus / "1.jsonl"
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    edited = text.replace("猫が", "犬が", 1)
    for changed in (edited, "".join([*lines[20:], *lines[:20]]), text + lines[0], ""):
        file.write_text(changed, encoding="utf-8")
        with pytest.raises(UsageError, match=r"content of .*1\.jsonl has changed .* Resume with the same files, or"):
            runs.run(again)
    file.write_text(text, encoding="utf-8")
    assert runs.run(again).state.global_step == 10


def test_every_epoch_reads_all_documents_in_a_different_order(data: tuple[Path, Path], tmp_path: Path) -> None:
    runs.run(runs.recipe(*data, tmp_path / "run"), tmp_path / "samples")
    by_epoch: dict[int, list[tuple[int, ...]]] = {}
    for step in runs.samples_by_step(tmp_path / "samples").values():
        for sample in step[0][0]:
            by_epoch.setdefault(sample[1], []).append(tuple(sample[2:]))
    first, second = by_epoch[0], by_epoch[1]
    assert len(first) == len(set(first))
    assert sorted(first) == sorted(second)
    assert first != second
    # All documents, and all pieces of long ones.
    assert len({piece[:2] for piece in first}) == 120
    assert any(start > 0 for _, _, start in first)


def test_resuming_with_fewer_ranks_reads_the_same_batches(data: tuple[Path, Path], tmp_path: Path) -> None:
    whole = runs.recipe(*data, tmp_path / "whole", data_lanes=2)
    runs.run(whole, tmp_path / "whole.samples")
    parts = runs.recipe(*data, tmp_path / "parts", data_lanes=2, per_device_train_batch_size=2)
    assert runs.run_apart(parts, tmp_path / "two.samples", kill=17, ranks=2) == [-signal.SIGKILL] * 2
    # One rank has the same global batch, with more rows per device.
    changed = {**whole, "output_dir": str(tmp_path / "parts"), "resume_from_checkpoint": True}
    assert runs.run_apart(changed, tmp_path / "one.samples") == [0]
    expected = runs.samples_by_step(tmp_path / "whole.samples")
    resumed = runs.samples_by_step(tmp_path / "one.samples")
    assert list(resumed) == list(range(16, 41))
    assert all(resumed[step] == expected[step] for step in resumed)


def test_resuming_without_optimizer_state_raises(data: tuple[Path, Path], tmp_path: Path) -> None:
    keys = runs.recipe(*data, tmp_path / "run", save_only_model=True)
    runs.run({**keys, "max_steps": 10})
    with pytest.raises(CheckpointError, match="checkpoint-10 was written with save_only_model=true"):
        runs.run({**keys, "max_steps": 10, "resume_from_checkpoint": True})


def test_resuming_requires_the_same_number_of_rows(data: tuple[Path, Path], tmp_path: Path) -> None:
    """Rows may be divided differently among batches, but their number must not change."""
    whole = runs.recipe(*data, tmp_path / "whole")
    runs.run(whole)
    parts = runs.recipe(*data, tmp_path / "parts")
    assert runs.run_apart(parts, kill=17) == [-signal.SIGKILL]
    again = {**parts, "resume_from_checkpoint": True, "per_device_train_batch_size": 2}
    with pytest.raises(UsageError, match=r"the recipe differs from that of .*\(rows_per_step: 4 then, 2 now\)"):
        runs.run(again)
    trainer = runs.run({**again, "gradient_accumulation_steps": 2}, tmp_path / "samples")
    assert trainer.state.global_step == 40
    assert list(runs.samples_by_step(tmp_path / "samples")) == list(range(16, 41))


def test_process_uses_one_gpu(data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two visible GPUs, Trainer would wrap the model in DataParallel."""
    monkeypatch.setattr(torch.nn, "DataParallel", type("Refused", (), {}))
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    keys = runs.recipe(*data, tmp_path / "run", max_steps=2, warmup_steps=0)
    assert runs.run(keys).state.global_step == 2


def test_extending_a_plateau_equals_a_longer_run(
    data: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 8}}
    long = runs.recipe(*data, tmp_path / "long", **schedule)
    runs.run(long)
    runs.run(runs.recipe(*data, tmp_path / "short", max_steps=20, save_total_limit=None, **schedule))
    plateau = tmp_path / "short" / "checkpoint-10"
    keys = {**long, "output_dir": str(tmp_path / "longer"), "resume_from_checkpoint": str(plateau)}
    assert open_run(runs.load(keys)) == plateau
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.message == (
        f"{tmp_path / 'longer'} resumes from {plateau} with a different recipe (max_steps: 20 then, 40 now)."
    )
    runs.run(keys)
    runs.assert_equal_runs(tmp_path / "long", tmp_path / "longer")


def test_resuming_a_complete_run_only_saves_the_model(data: tuple[Path, Path], tmp_path: Path) -> None:
    keys = runs.recipe(*data, tmp_path / "run")
    runs.run(keys)
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "model.safetensors").unlink()
    trainer = runs.run({**keys, "resume_from_checkpoint": True})
    assert trainer.state.global_step == 40
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights


def test_damaged_checkpoint_is_reported_and_the_previous_one_used(
    data: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs.run(runs.recipe(*data, tmp_path / "whole"))
    keys = runs.recipe(*data, tmp_path / "parts")
    runs.run_apart(keys, kill=23)
    newest = tmp_path / "parts" / "checkpoint-20" / "optimizer.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    shutil.rmtree(tmp_path / "parts" / ".saving", ignore_errors=True)
    assert newest_sound(tmp_path / "parts") == tmp_path / "parts" / "checkpoint-15"
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "checkpoint-20 is damaged: the SHA-256 sum of optimizer.pt differs" in record.message
    runs.run({**keys, "resume_from_checkpoint": True})
    runs.assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
