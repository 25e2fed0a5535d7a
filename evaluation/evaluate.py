"""`llm-jp-modernbert evaluate`: measures models × tasks × seeds, each once, and stores the results."""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from rich.console import Console

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import write_whole
from llm_jp_modernbert.core.progress import progress_bar
from llm_jp_modernbert.core.results import Results, Row, Run, model_folder, read_instances
from llm_jp_modernbert.core.terminal import console

from .data.options import Data, Options
from .encoders.models import EvaluatedModel, ModelName
from .interrupts import Interrupts
from .options import EvaluateOptions
from .report.failures import Failures
from .tasks.ranks import rank, work_alone
from .tasks.registry import select, selectors
from .tasks.task import Task

logger = logging.getLogger(__name__)

_UNFINISHED = ".unfinished"


def models_of(options: EvaluateOptions) -> list[EvaluatedModel]:
    """The models to measure.

    Raises:
        UsageError: an invalid name, two models of one name, or an unavailable device.
    """
    which = (options.revision, options.device, options.dtype, options.tokens_per_batch)
    models = [EvaluatedModel(ModelName.parse(model, *which)) for model in dict.fromkeys(options.models)]
    for label, number in Counter(model.label for model in models).items():
        if number > 1:
            raise UsageError(f"{number} models are called {label}. Give them names, as NAME=MODEL.")
    return models


def evaluate(options: EvaluateOptions) -> tuple[list[Row], Failures]:
    """Makes all measurements that have no result yet.

    A failed measurement does not end the others. An interrupted call keeps finished measurements; the same call
    resumes.

    Returns:
        The rows of all measurements, old and new, and the errors of failed ones.

    Raises:
        UsageError: an unknown task or model.
        SystemExit: with code 130 if interrupted.
    """
    if rank():
        logger.setLevel(logging.ERROR)
    names = [name.strip() for name in options.tasks.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--tasks is empty. Choose from {', '.join(selectors())}.")
    constructors = [constructor for name in names for constructor in select(name)]
    # Invalid model names are reported before the first measurement. The models are loaded one after the other.
    models_of(options)
    EvaluatedModel(ModelName.parse(options.candidates))
    interrupts = Interrupts()
    evaluation = _Evaluation(options, interrupts.check)
    try:
        with interrupts:
            for name in options.models:
                (model,) = models_of(replace(options, models=[name]))
                for constructor in constructors:
                    for seed in options.seed or (0,):
                        evaluation.measure(model, constructor, options.for_seed(seed))
                        interrupts.check()
            evaluation.compare()
    except KeyboardInterrupt:
        logger.warning("Interrupted. Finished measurements are in %s; run the same command to resume.", options.out)
        raise SystemExit(130) from None
    return ([], Failures()) if rank() else (evaluation.rows, evaluation.failures)


class _Evaluation:
    """State of one call: loaded data, rows and failures."""

    def __init__(self, options: EvaluateOptions, check_interrupts: Callable[[], None]) -> None:
        self._out = options.out
        self._results = Results(options.out)
        self._check_interrupts = check_interrupts
        self._data: dict[Task, Data | Exception] = {}
        self._comparable: dict[tuple[type[Task], str, str, str, int], dict[str, Run]] = {}
        self.rows: list[Row] = []
        self.failures = Failures()

    def measure(self, model: EvaluatedModel, constructor: Callable[[Options], Task], options: Options) -> None:
        """Makes one measurement, unless it has a result."""
        place = model.label
        try:
            task = constructor(options)
            if rank() and not task.shared:
                return
            place = f"{task.title} of {model.label}"
            if model.is_bm25 and task.needs_weights:
                raise UsageError("bm25 has no weights. It is measured with --tasks retrieval.")
            data = self._load(task)
            run = _run(task, model, data)
            rows = self._results.find(run)
            if rows is not None:
                logger.info("%s of %s: already measured", task.title, model.label)
            else:
                rows = self._measure(model, task, data, run)
        except Exception as error:
            # Any error of a library, for example too little memory for one of several models.
            self.failures.add(place, error)
            return
        self.rows += rows
        if rows:
            group = (type(task), run.task, run.protocol, run.dataset_revision, run.examples)
            self._comparable.setdefault(group, {})[model.label] = run

    def compare(self) -> None:
        """Writes the outputs of the models side by side, for tasks that support it."""
        for (task, name, protocol, *_), runs in self._comparable.items():
            try:
                text = task.compare({label: read_instances(self._results.path(run)) for label, run in runs.items()})
                if text is not None:
                    path = self._out / name / f"side-by-side-{protocol}.md"
                    write_whole(path, text)
                    logger.info("Answers side by side: %s", path)
            except Exception as error:
                self.failures.add(f"comparison of {name}", error)

    def _load(self, task: Task) -> Data:
        # Equal tasks of several models share their data, and the error if loading failed.
        if task not in self._data:
            try:
                self._data[task] = task.load()
            except Exception as error:
                self._data[task] = error
        data = self._data[task]
        if isinstance(data, Exception):
            raise data
        return data

    def _measure(self, model: EvaluatedModel, task: Task, data: Data, run: Run) -> list[Row]:
        folder = self._out / _UNFINISHED / run.task / f"{model_folder(run.model)}-{run.protocol}-{run.key}"
        resumable = replace(task, options=replace(task.options, work_dir=folder))
        with progress_bar(Console(quiet=True) if rank() else console(), transient=True) as bar:
            shown = bar.add_task(f"{task.title} · {model.label}", total=1.0)

            def progress(share: float) -> None:
                self._check_interrupts()
                bar.update(shown, completed=share)

            outcome = resumable.measure(model, data, progress)
        if rank():
            return []
        rows = self._results.write(run, outcome.measurements, outcome.instances)
        shutil.rmtree(folder, ignore_errors=True)
        for path, _, _ in os.walk(self._out / _UNFINISHED, topdown=False):
            # Directories of other measurements are not empty, or another process removes them.
            with suppress(OSError):
                os.rmdir(path)
        logger.info("%s of %s: %d values", task.title, model.label, len(rows))
        return rows


def _run(task: Task, model: EvaluatedModel, data: Data) -> Run:
    if not len(data.examples):
        raise UsageError(f"{data.name}: contains no example.")
    return Run(
        task=task.title,
        model=model.label,
        revision=model.revision,
        protocol=task.options.protocol,
        settings=task.settings_of(model),
        seed=task.options.seed,
        dataset=data.name,
        dataset_revision=data.revision,
        split=data.split,
        examples=len(data.examples),
        train_files=data.train_files,
        text_files=data.text_files,
        selector=task.selector,
    )


def main() -> None:
    """Entry point of `accelerate launch -m llm_jp_modernbert.evaluation.evaluate …`."""
    from llm_jp_modernbert.core.entry_points import run_command

    work_alone()
    run_command("evaluate")


if __name__ == "__main__":
    main()
