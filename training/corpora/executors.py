"""Run the stages of a preparation with datatrove's executors."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor

from llm_jp_modernbert.core.errors import UsageError

from .layout import WORK
from .pipelines import Stage
from .steps import end_with_parent

if TYPE_CHECKING:
    from .recipe import CorpusRecipe, ExecutorName


def run(stages: list[Stage], recipe: CorpusRecipe, executor: ExecutorName, workers: int | None) -> None:
    """Runs the stages one after the other, or submits them to Slurm; tasks that have finished before are skipped.

    Raises:
        UsageError: tasks have failed.
    """
    if executor == "ray":
        import ray

        # Connects to the cluster of RAY_ADDRESS or of this machine, or starts one.
        ray.init(ignore_reinit_error=True)
    job: Any = None
    for stage in stages:
        pipeline, tasks = [end_with_parent, *stage.pipeline], stage.tasks
        logs = f"{recipe.output_dir.rstrip('/')}/{WORK}/logs/{stage.name}"
        if executor == "slurm":
            job = SlurmPipelineExecutor(
                pipeline,
                tasks=tasks,
                workers=workers or -1,
                logging_dir=logs,
                depends=job,
                job_name=f"corpus-{stage.name}",
                env_command=_activation(),
                time=recipe.slurm.time,
                partition=recipe.slurm.partition,
                cpus_per_task=recipe.slurm.cpus_per_task,
                mem_per_cpu_gb=recipe.slurm.mem_per_cpu_gb,
                max_array_size=recipe.slurm.max_array_size,
                qos=recipe.slurm.qos,
                sbatch_args=dict(recipe.slurm.sbatch_args),
            )
            continue
        if executor == "ray":
            job = RayPipelineExecutor(pipeline, tasks=tasks, workers=workers or tasks, logging_dir=logs)
        else:
            job = LocalPipelineExecutor(
                pipeline, tasks=tasks, workers=min(workers or os.cpu_count() or 1, tasks), logging_dir=logs
            )
        with _forks_end_with_this_process():
            job.run()
        # Other processes have changed files since this one listed them. All of its directories: s3fs keeps inner ones.
        job.logging_dir.fs.invalidate_cache()
        failed = job.get_incomplete_ranks()
        if failed:
            raise UsageError(
                f"{len(failed)} of {tasks} tasks have failed; the first log is {logs}/logs/task_{failed[0]:05d}.log. "
                "Run the same command again to resume."
            )
    if executor == "slurm":
        job.run()


def _activation() -> str:
    """The shell command that activates the virtual environment of this process."""
    script = Path(sys.prefix) / "bin" / "activate"
    return f"source {script}" if script.is_file() else "true"


_parent: int | None = None
"""The process whose forks end with it, while `_forks_end_with_this_process` is active in it."""


@contextmanager
def _forks_end_with_this_process() -> Iterator[None]:
    """Ends the processes that are forked in this context even if this process is killed.

    LocalPipelineExecutor forks a manager of queues, which otherwise waits for ever.
    """
    global _parent
    _register_fork_hook()
    _parent = os.getpid()
    try:
        yield
    finally:
        _parent = None


@cache
def _register_fork_hook() -> None:
    # Other systems than POSIX do not fork.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_watch_parent)


def _watch_parent() -> None:
    global _parent
    parent, _parent = _parent, None
    if parent is None:
        return

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
