"""A rank that is slower than the others is named in the log."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import runs
import torch

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.training import step_times
from llm_jp_modernbert.training.pretrain import pretrain
from llm_jp_modernbert.training.step_times import OwnTime


def test_slow_forward_passes_are_reported_with_their_host(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, seconds = LlmJpModernBertForMaskedLM.forward, 0.0

    def slow_on_rank_1(*args: Any, **kwargs: Any) -> Any:
        nonlocal seconds
        seconds += 3 if os.environ.get("RANK") == "1" else 1
        return forward(*args, **kwargs)

    monkeypatch.setattr(LlmJpModernBertForMaskedLM, "forward", slow_on_rank_1)
    # A clock that a busy machine does not change.
    monkeypatch.setattr(step_times, "time", SimpleNamespace(perf_counter=lambda: seconds))
    changes = {"max_steps": 4, "logging_steps": 2, "per_device_train_batch_size": 1, "save_strategy": "steps"}
    log = tmp_path / "log"
    handler = logging.FileHandler(log)
    logging.getLogger("llm_jp_modernbert").addHandler(handler)
    assert runs.run_apart(runs.recipe(*data, tmp_path / "run", **changes, save_steps=4), ranks=2) == [0, 0]
    logging.getLogger("llm_jp_modernbert").removeHandler(handler)
    state = json.loads((tmp_path / "run" / "checkpoint-4" / "trainer_state.json").read_text())
    lines = [entry for entry in state["log_history"] if "slowest_rank" in entry]
    # The median of 1 and 3 seconds is 2.
    assert [(entry["slowest_rank"], entry["slowest_rank_time"]) for entry in lines] == [(1, 1.5), (1, 1.5)]
    assert f"rank 1 on {socket.gethostname()} needs 1.50 times" in log.read_text()


def test_single_process_does_not_collect_times(data: tuple[Path, Path], tmp_path: Path) -> None:
    """On a GPU, each time is a pair of events, which would fill the memory of a long run."""
    trainer = pretrain(runs.load(runs.recipe(*data, tmp_path / "run", max_steps=4, logging_steps=2)))
    assert trainer.own_time.take() == 0
    assert not any("slowest_rank" in entry for entry in trainer.state.log_history)


def test_own_time_starts_again_after_it_was_taken() -> None:
    own_time = OwnTime(torch.device("cpu"))
    with own_time.on_host():
        time.sleep(0.02)
    with own_time.on_device():
        time.sleep(0.02)
    assert own_time.take() >= 0.04
    assert own_time.take() == 0


def test_events_of_finished_work_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a log line, nobody takes the times: on a GPU, the events would fill the memory of a long run."""
    unfinished = 3

    class Event:
        alive = 0

        def __init__(self, *_: Any, **options: Any) -> None:
            Event.alive += 1

        def __del__(self) -> None:
            Event.alive -= 1

        def record(self) -> None:
            pass

        def query(self) -> bool:
            return Event.alive > 2 * unfinished

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end: Any) -> float:
            return 1000.0

    monkeypatch.setattr(torch, "Event", Event)
    own_time = OwnTime(torch.device("cuda"))
    for _ in range(100):
        with own_time.on_device():
            pass
    assert Event.alive == 2 * unfinished
    assert own_time.take() == 100
    assert Event.alive == 0
