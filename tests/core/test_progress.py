"""The progress bar is readable in terminals of common widths."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from llm_jp_modernbert.core.progress import progress_bar


@pytest.mark.parametrize("width", [60, 80, 120])
def test_remaining_time_is_shown_completely(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    bar = progress_bar(console, "{task.fields[rate]}", "{task.fields[figures]}")
    rate, figures = "12,345,678 documents, 123.4 MB/s", "loss 2.31, held-out accuracy 45.1%"
    task = bar.add_task("tokenizing", total=1000, rate=rate, figures=figures)
    bar.update(task, completed=10)
    time.sleep(0.01)
    bar.update(task, completed=20)
    console.print(bar.get_renderable())
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line.startswith("  tokenizing")
    assert line.rstrip().endswith(" left")
    assert line.split()[-2].count(":") == 2
    assert "  2% " in line
