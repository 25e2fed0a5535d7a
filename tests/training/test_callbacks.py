"""Progress is seen, on a terminal and in a log file."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from llm_jp_modernbert.training.callbacks import ProgressCallback
from llm_jp_modernbert.training.run.totals import Totals


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal: bool) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=120)
    totals = Totals()
    callback = ProgressCallback(console, "training", lambda step: step / 50, lambda: totals)
    args, state, control = TrainingArguments("unused"), TrainerState(max_steps=50), TrainerControl()
    callback.on_train_begin(args, state, control)
    for step in range(1, 51):
        state.global_step = step
        totals.tokens += 1000
        callback.on_log(args, state, control, logs={"loss": 3.25})
        callback.on_step_end(args, state, control)
    callback.on_train_end(args, state, control)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    assert "100%" in text
    assert "loss 3.25" in text
    assert re.search(r"[1-9][\d,]+ tokens/s", text)
    if not terminal:
        assert len(text.splitlines()) == 10
