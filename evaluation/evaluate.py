"""`llm-jp-modernbert evaluate`: models × tasks × seeds, each measured once and kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.progress import progress_bar

from .encoders.models import EvaluatedModel, ModelName
from .interrupts import Interrupts
from .report.results import Results, Row, Run, model_folder
from .report.side_by_side import write_side_by_side
from .tasks import jmteb
from .tasks.alignment_uniformity import AlignmentUniformity
from .tasks.fill_mask import FillMask, FillMaskPublishedTokenizer
from .tasks.jglue import Jcola, JcommonsenseQA, Jnli, Jsts, Marc
from .tasks.jsquad import Jsquad
from .tasks.ner import Ner
from .tasks.pseudo_perplexity import PseudoPerplexity
from .tasks.ranks import rank, work_alone
from .tasks.retrieval import SOURCES, Retrieval
from .tasks.similarity import Similarity
from .tasks.task import PROTOCOLS, Data, Options, Task

TASKS: dict[str, Callable[[Options], Task]] = {
    "fill-mask": FillMask.for_options,
    "fill-mask-published-tokenizer": FillMaskPublishedTokenizer.for_options,
    "pseudo-perplexity": PseudoPerplexity.for_options,
    "retrieval": Retrieval.for_options,
    **{f"retrieval:{source}": partial(Retrieval.for_options, source=source) for source in SOURCES},
    "alignment-uniformity": AlignmentUniformity.for_options,
    "similarity": Similarity.for_options,
    **{task.name: task.for_options for task in (Jsts, Jnli, Jcola, Jsquad, JcommonsenseQA, Marc, Ner)},
}
"""Every task, as `--tasks` names it, but those of `jmteb`, which mteb names."""

_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        models: which models, and how they compute.
        tasks: names of `TASKS`.
        options: for all tasks; its seed is replaced by each of `seeds`.
        seeds: one measurement each.
        out: the folder of results.
    """

    models: Sequence[ModelName]
    tasks: Sequence[str]
    options: Options
    seeds: Sequence[int]
    out: Path


def evaluate(plan: Plan, console: Console) -> list[Row]:
    """Measures what is not measured yet, and shows all of it.

    A measurement that cannot be made is told, and the others go on. Interrupted, it keeps what is finished; the same
    call goes on from there.

    Returns:
        The rows of all measurements, old and new.

    Raises:
        UsageError: an unknown task, or a measurement could not be made.
        SystemExit: 130 when it is interrupted.
    """
    from .report.leaderboard import show

    if rank():
        console = Console(quiet=True)
    makers = [maker for name in plan.tasks for maker in _makers(name)]
    if not makers:
        raise UsageError(f"--tasks names no task. Choose of {', '.join((*TASKS, *jmteb.BENCHMARKS))}.")
    if plan.options.protocol not in PROTOCOLS:
        raise UsageError(f"--protocol {plan.options.protocol}: choose {' or '.join(PROTOCOLS)}.")
    for which in plan.models:
        # A name that is wrong is told before anything is measured.
        EvaluatedModel(which)
    interrupts = Interrupts()
    evaluation = _Evaluation(plan, console, interrupts.check)
    try:
        with interrupts:
            for which in plan.models:
                model = EvaluatedModel(which)
                for make in makers:
                    for seed in plan.seeds:
                        evaluation.measure(model, make, replace(plan.options, seed=seed))
                        interrupts.check()
            evaluation.compare()
    except KeyboardInterrupt:
        console.print(
            f"Interrupted. What was finished is in {plan.out}; the same command goes on from there.", soft_wrap=True
        )
        raise SystemExit(130) from None
    if rank():
        return []
    if evaluation.rows:
        show(evaluation.rows, console)
        console.print(f"Results are in {plan.out}.", soft_wrap=True)
    if evaluation.failures:
        told = " ".join(dict.fromkeys(evaluation.failures))
        raise UsageError(f"{len(evaluation.failures)} measurements were not made: {told}")
    return evaluation.rows


class _Evaluation:
    """The course of one call: data that were read, rows that were found, measurements that failed."""

    def __init__(self, plan: Plan, console: Console, check_interrupts: Callable[[], None]) -> None:
        self._plan = plan
        self._check_interrupts = check_interrupts
        self._console = console
        self._results = Results(plan.out)
        self._data: dict[Task, Data | UsageError] = {}
        self._gaps: dict[tuple[str, str], dict[str, Run]] = {}
        self.rows: list[Row] = []
        self.failures: list[str] = []

    def measure(self, model: EvaluatedModel, make: Callable[[Options], Task], options: Options) -> None:
        """Makes one measurement, unless it is made already."""
        try:
            task = make(options)
            if rank() and not task.shared:
                return
            data = self._read(task)
            run = _run(task, model, data)
            rows = self._results.find(run)
            if rows is not None:
                self._console.print(f"{task.title} of {model.label}: done before", soft_wrap=True)
            else:
                rows = self._make(model, task, data, run)
        except (UsageError, OSError, RuntimeError) as error:
            # Such as memory that does not suffice for one model of many.
            self.failures.append(str(error))
            self._console.print(f"[red]not made:[/] {model.label}: {error}", highlight=False, soft_wrap=True)
            return
        self.rows += rows
        if task.name == FillMask.name and rows:
            group = self._gaps.setdefault((run.protocol, run.dataset_revision + str(run.examples)), {})
            group[model.label] = run

    def compare(self) -> None:
        """Writes what the models of this call put into the gaps of the same prompts."""
        for (protocol, _), runs in self._gaps.items():
            path = self._plan.out / FillMask.name / f"side-by-side-{protocol}.md"
            write_side_by_side(path, {name: self._results.instances(run) for name, run in runs.items()})
            self._console.print(f"Answers side by side: {path}", soft_wrap=True)

    def _read(self, task: Task) -> Data:
        # The tasks of two models are equal, so each reads its data once; so does a mistake in them.
        if task not in self._data:
            try:
                self._data[task] = task.load()
            except UsageError as error:
                self._data[task] = error
        found = self._data[task]
        if isinstance(found, UsageError):
            raise found
        return found

    def _make(self, model: EvaluatedModel, task: Task, data: Data, run: Run) -> list[Row]:
        folder = self._plan.out / _UNFINISHED / run.task / f"{model_folder(run.model)}-{run.protocol}-{run.key}"
        working = replace(task, options=replace(task.options, work_dir=folder))
        with progress_bar(self._console, transient=True) as bar:
            shown = bar.add_task(f"{task.title} · {model.label}", total=1.0)

            def progress(share: float) -> None:
                self._check_interrupts()
                bar.update(shown, completed=share)

            outcome = working.measure(model, data, progress)
        if rank():
            return []
        rows = self._results.write(run, outcome.measurements, outcome.instances)
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(self._plan.out / _UNFINISHED)
        self._console.print(
            f"{task.title} of {model.label}: {len(rows)} figures on {run.examples:,} examples", soft_wrap=True
        )
        return rows


def _run(task: Task, model: EvaluatedModel, data: Data) -> Run:
    if not len(data.examples):
        raise UsageError(f"{data.name}: holds no example.")
    settings = {**task.settings(), "dtype": model.dtype}
    # What decides how embeddings are made is the model's own.
    if settings.get("pooling") == "auto" and model.embedding_files:
        settings["embedding_files"] = model.embedding_files
    return Run(
        task=task.title,
        model=model.label,
        revision=model.revision,
        protocol=task.options.protocol,
        settings=settings,
        seed=task.options.seed,
        dataset=data.name,
        dataset_revision=data.revision,
        split=data.split,
        examples=len(data.examples),
        train_files=data.train_files,
        text_files=data.text_files,
        selector=task.selector,
    )


def _makers(name: str) -> list[Callable[[Options], Task]]:
    if name.partition(":")[0] in jmteb.BENCHMARKS:
        return jmteb.makers(name)
    if name not in TASKS:
        known = ", ".join((*TASKS, *jmteb.BENCHMARKS))
        raise UsageError(f"--tasks {name}: no such task. Choose of {known}.")
    return [TASKS[name]]


def _remove_empty(folder: Path) -> None:
    for path, _, _ in os.walk(folder, topdown=False):
        # What is not empty stays, and another call may have removed the rest.
        with suppress(OSError):
            os.rmdir(path)


def main() -> None:
    """`accelerate launch -m llm_jp_modernbert.evaluation.evaluate …`."""
    from llm_jp_modernbert.core.entry_points import run_command

    work_alone()
    run_command("evaluate")


if __name__ == "__main__":
    main()
