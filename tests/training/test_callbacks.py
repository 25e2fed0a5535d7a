"""Progress is shown on a terminal and in a log."""

from __future__ import annotations

import io
import logging
import re

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from llm_jp_modernbert.training.callbacks import ProgressCallback
from llm_jp_modernbert.training.run.totals import Totals


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="llm_jp_modernbert")
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120)
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
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue() if terminal else caplog.text)
    assert "100%" in text
    assert "loss 3.25" in text
    assert re.search(r"[1-9][\d,]+ tokens/s", text)
    if not terminal:
        assert len(caplog.messages) == 10
