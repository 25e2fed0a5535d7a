"""The example task of CONTRIBUTING.md works as printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from llm_jp_modernbert.evaluation import tasks
from llm_jp_modernbert.evaluation.tasks.registry import task_classes

ROOT = Path(__file__).parents[2]


def test_example_task_is_found_and_passes_its_test(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL)
    (task_path, task), (test_path, test) = blocks
    assert (task_path, test_path) == ("evaluation/tasks/compression.py", "tests/evaluation/test_compression.py")
    (tmp_path / "compression.py").write_text(task, encoding="utf-8")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    task_classes.cache_clear()
    try:
        names: dict = {}
        exec(compile(test, test_path, "exec"), names)
        names["test_characters_per_token_equals_hand_computation"](modernbert)
    finally:
        task_classes.cache_clear()
        sys.modules.pop(f"{tasks.__name__}.compression", None)
