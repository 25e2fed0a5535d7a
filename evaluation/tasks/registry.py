"""Finds the tasks: every concrete subclass of `Task` in the modules of this package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from llm_jp_modernbert.core.errors import UsageError

from ..data.options import Options
from .task import Task


@cache
def task_classes() -> dict[str, type[Task]]:
    """Task classes by the names that select them, ordered by module and place in it."""
    package = __name__.rpartition(".")[0]
    classes: dict[str, type[Task]] = {}
    for module_info in iter_modules(import_module(package).__path__):
        module = import_module(f"{package}.{module_info.name}")
        for value in vars(module).values():
            defined_here = inspect.isclass(value) and value.__module__ == module.__name__
            if defined_here and issubclass(value, Task) and hasattr(value, "name"):
                classes |= {selector.partition(":")[0]: value for selector in value.selectors()}
    return classes


def selectors() -> list[str]:
    """All values of `--tasks`."""
    return [selector for task in dict.fromkeys(task_classes().values()) for selector in task.selectors()]


def select(selector: str) -> Sequence[Callable[[Options], Task]]:
    """Constructors of the tasks that a value of `--tasks` selects.

    Raises:
        UsageError: unknown task.
    """
    task = task_class(selector)
    if task is None:
        raise UsageError(f"--tasks {selector}: no such task. Choose from {', '.join(selectors())}.")
    return task.select(selector)


def task_class(selector: str) -> type[Task] | None:
    """The class of a task by its name or by a result's `selector`; None if unknown."""
    return task_classes().get(selector.partition(":")[0])
