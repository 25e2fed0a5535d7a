"""Completes the directory of an adapted model: measurements, record, result rows, plot and report."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

from llm_jp_modernbert.core.files import write_whole
from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.core.results import Measurement, Results, Run
from llm_jp_modernbert.core.versions import library_versions
from llm_jp_modernbert.inference.loading import model_revision
from llm_jp_modernbert.training.finetuning.finetune.folder import RESULTS
from llm_jp_modernbert.training.recipe.loading import RECIPE, render
from llm_jp_modernbert.training.report import device_line
from llm_jp_modernbert.training.run.adaptation import Change, Measured, Record, Texts, write_record
from llm_jp_modernbert.training.run.totals import Totals

from .job import HELD_OUT, OPTIONS, Job
from .measuring import ACCURACY, MASKED_SHARE, POSITIONS, WINDOW, Scores, compare
from .recipe import base_learning_rate, replay_share, tokens_per_epoch
from .report import write_report
from .texts import Corpus

TASK = "adapt"
"""Name of the task in the result rows."""

_LIBRARIES = ("llm-jp-modernbert", "transformers", "torch", "tokenizers", "accelerate")
# Files of a run that the model does not need.
_NOT_KEPT = ("checkpoint-*", "damaged-*", ".*", "non_finite", "run.json")


def keep(job: Job, before: dict[str, Scores], totals: Totals) -> None:
    """Measures the trained model and completes its directory.

    Args:
        job: the adaptation.
        before: scores of the base.
        totals: counts of the training.
    """
    run = job.folder.seed(job.options.seed)
    after = job.measure(str(run), "model")
    changes = {name: compare(before[name], after[name], job.options.seed) for name in after}
    staged = job.folder.unfinished / "complete"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(run, staged, ignore=shutil.ignore_patterns(*_NOT_KEPT))
    shutil.copy(job.folder.unfinished / OPTIONS, staged)
    shutil.copytree(job.folder.unfinished / HELD_OUT, staged / HELD_OUT)
    # Without the files of this directory.
    recipe = replace(job.recipe, output_dir=str(job.folder.out), exclude_data=None, validation_data=None)
    write_whole(staged / RECIPE, render(recipe))
    record = _record(job, changes, totals)
    write_record(staged, record)
    _write_rows(job, staged, changes)
    write_report(staged, job, record)
    job.folder.finish(staged)


def _record(job: Job, changes: dict[str, dict[str, Change]], totals: Totals) -> Record:
    share, recipe = replay_share(job.options), job.recipe
    replay = job.texts.replay
    measured: dict[str, Measured] = {
        name: {
            "name": held_out.name,
            "revision": held_out.revision,
            "held_out_of": held_out.held_out_of,
            "documents": len(job.windows[name]),
            "metrics": changes[name],
        }
        for name, held_out in job.held_out.items()
    }
    return {
        "schema": 1,
        "base": job.base.name,
        "base_revision": job.base.revision,
        "train": _texts(job.texts.train, 1 - share),
        "replay": None if replay is None else _texts(replay, share),
        "domain": measured["domain"],
        "general": measured.get("general"),
        "epochs": round(totals.tokens / tokens_per_epoch(job.options, job.texts), 3),
        "learning_rate": recipe.learning_rate,
        "base_learning_rate": base_learning_rate(job.stages),
        "mlm_probability": recipe.mlm_probability,
        "sequence_length": recipe.sequence_length,
        "window": WINDOW,
        "positions": POSITIONS,
        "masked_share": MASKED_SHARE,
        "seed": job.options.seed,
        "seconds": round(totals.seconds, 1),
        "device": device_line(recipe.device, recipe.world_size),
        "versions": library_versions(_LIBRARIES),
    }


def _texts(corpus: Corpus, share: float) -> Texts:
    return {"name": corpus.name, "revision": corpus.revision, "share": share}


def _write_rows(job: Job, staged: Path, changes: dict[str, dict[str, Change]]) -> None:
    """Writes the scores of the base and of the model."""
    stored = Results(staged / RESULTS)
    revision = model_revision(ModelReference.parse(str(staged)))
    models: dict[Literal["before", "after"], tuple[str, str]] = {
        "before": (job.base.name, job.base.revision),
        "after": (job.folder.out.name, revision),
    }
    for split, held_out in job.held_out.items():
        for part, (model, revision) in models.items():
            run = Run(
                task=TASK,
                model=model,
                revision=revision,
                protocol="default",
                settings={"window": WINDOW, "positions": POSITIONS, "masked_share": MASKED_SHARE},
                seed=job.options.seed,
                dataset=held_out.name,
                dataset_revision=held_out.revision,
                split=split,
                examples=len(job.windows[split]),
            )
            measurements = [
                Measurement(
                    metric,
                    change[part]["value"],
                    higher_is_better=metric == ACCURACY,
                    low=change[part]["low"],
                    high=change[part]["high"],
                    scale=100 if metric == ACCURACY else 1,
                )
                for metric, change in changes[split].items()
            ]
            stored.write(run, measurements)
