"""Tasks are found by their classes, and declare what leaderboards, plots and cards need."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.evaluation import tasks
from llm_jp_modernbert.evaluation.tasks import registry

TASK = '''
from dataclasses import dataclass

from llm_jp_modernbert.evaluation.data.options import Data
from llm_jp_modernbert.core.results import Measurement
from llm_jp_modernbert.evaluation.tasks.task import Outcome, Task


@dataclass(frozen=True)
class Vocabulary(Task):
    """Share of characters that are one token."""

    name = "vocabulary"
    hub_task = "fill-mask"

    def load(self):
        return Data("characters", "1", "test", ["猫", "犬"][: self.options.limit])

    def measure(self, model, data, progress):
        lengths = [len(model.tokenizer.tokenize(character)) for character in data.examples]
        return Outcome([Measurement("single", sum(length <= 2 for length in lengths) / len(lengths), scale=100)])
'''


@pytest.fixture
def vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module with a new task, as if it were in the folder of tasks."""
    (tmp_path / "vocabulary.py").write_text(TASK, encoding="utf-8")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    registry.task_classes.cache_clear()
    yield
    registry.task_classes.cache_clear()
    sys.modules.pop(f"{tasks.__name__}.vocabulary", None)


def test_new_module_is_a_new_task(vocabulary: None, modernbert: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(modernbert), "--tasks", "vocabulary", "--device", "cpu", "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "single" in done.output
    assert "vocabulary" in CliRunner().invoke(app, ["evaluate", "--list-tasks"]).output.splitlines()


def test_every_task_declares_its_hub_task() -> None:
    hub_tasks = {task.name: task.hub_task for task in registry.task_classes().values()}
    assert hub_tasks["jsquad"] == "question-answering"
    # Task types of huggingface.co/tasks.
    known = {"fill-mask", "sentence-similarity", "text-classification", "token-classification"}
    assert set(hub_tasks.values()) <= known | {"multiple-choice", "question-answering"}


def test_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"--tasks jnlp: no such task\. Choose from .*jnli.*retrieval:beir"):
        registry.select("jnlp")


@pytest.mark.parametrize("selector", ["jnli:x", "retrieval:x", "fill-mask:x"])
def test_unknown_argument_of_a_task_is_reported(selector: str) -> None:
    with pytest.raises(ValueError, match=f"--tasks {selector}: no such task"):
        registry.select(selector)
