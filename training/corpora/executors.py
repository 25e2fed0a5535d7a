"""Run the stages of a preparation with datatrove's executors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .pipelines import WORK, Stage
from .steps import end_with_parent

if TYPE_CHECKING:
    from .prepare import ExecutorName
    from .recipe import CorpusRecipe


def run(stages: list[Stage], recipe: CorpusRecipe, executor: ExecutorName, workers: int) -> None:
    """Runs the stages one after the other; tasks that have finished before are skipped."""
    from datatrove.executor import LocalPipelineExecutor

    last: Any = None
    for stage in stages:
        logs = f"{recipe.output_dir.rstrip('/')}/{WORK}/logs/{stage.name}"
        last = LocalPipelineExecutor(
            [end_with_parent, *stage.pipeline],
            tasks=stage.tasks,
            workers=min(workers, stage.tasks),
            logging_dir=logs,
            depends=last,
        )
    last.run()
