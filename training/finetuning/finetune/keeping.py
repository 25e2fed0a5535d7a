"""Completes the directory of a fine-tuned model: measurements, record, result rows, plots and report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.core.results import Measurement, Results, Row, Run
from llm_jp_modernbert.core.versions import library_versions
from llm_jp_modernbert.inference.loading import model_revision

from ...report import device_line
from ..batches import Batches, predict_logits
from ..data.dataset import TRAIN, VALIDATION
from ..head_task import HeadTask, Prediction
from ..record import ERRORS, Label, Part, Record, Seed, write_record
from ..text import MultiLabelClassification
from .base import load_finetuned
from .folder import RESULTS, SeedResult
from .job import Job
from .measuring import (
    class_counts,
    class_scores,
    classes,
    confusion,
    intervals,
    label_counts,
    simplest_guess,
    worst_errors,
)
from .plots import draw_all
from .report import write_report

_LIBRARIES = ("llm-jp-modernbert", "transformers", "torch", "tokenizers", "accelerate", "peft", "scikit-learn")


def keep(job: Job, results: Sequence[SeedResult], best: SeedResult) -> None:
    """Measures the best model on validation and, for the first time, on test, and completes its directory.

    Args:
        job: the fine-tuning.
        results: all trainings.
        best: the training whose model is kept.
    """
    staged = job.folder.stage(best["seed"])
    task, predictions = _predict(job, staged)
    job = replace(job, dataset=replace(job.dataset, task=task))
    last = list(predictions)[-1]
    record = _record(job, results, best, last, predictions[last])
    rows = _write_rows(job, staged, results, best, predictions)
    write_record(staged, record)
    errors = worst_errors(job.task, job.parts[last], predictions[last])
    lines = (json.dumps(error, ensure_ascii=False) for error in errors)
    (staged / ERRORS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    draw_all(staged, record, results)
    write_report(staged, job, record, rows)
    job.folder.finish(staged)


def _predict(job: Job, staged: Path) -> tuple[HeadTask[Any], dict[str, list[Prediction]]]:
    """The task with thresholds tuned on validation, and predictions of the saved model for validation and test."""
    arguments, device = job.arguments, job.arguments.device
    model = load_finetuned(staged, job.task)
    model.to(device)  # type: ignore[arg-type]
    batches = Batches.of(model, job.task, job.base.tokenizer, job.settings.tokens_per_batch)
    dtype = torch.float16 if arguments.fp16 else torch.bfloat16
    measured = {part: job.parts[part].examples for part in job.parts if part != TRAIN}
    with torch.autocast(device.type, dtype, enabled=arguments.bf16 or arguments.fp16):
        logits = {part: predict_logits(model, job.inputs[part], batches) for part in measured}
    task = job.task.tuned(job.inputs[VALIDATION], logits[VALIDATION], measured[VALIDATION])
    return task, {part: task.predict(job.inputs[part], logits[part], examples) for part, examples in measured.items()}


def _record(
    job: Job, results: Sequence[SeedResult], best: SeedResult, last: str, predictions: Sequence[Prediction]
) -> Record:
    """The record, with the scores by class on the last part."""
    task, examples = job.task, job.parts[last].examples
    values = [prediction.value for prediction in predictions]
    counts = {name: label_counts(task, part.examples) for name, part in job.parts.items()}
    scores = class_scores(class_counts(task, examples, values))
    labels: list[Label] = []
    for place, label in enumerate(classes(task)):
        precision, recall, f1 = (scores[place][name] for name in ("precision", "recall", "f1"))
        by_part = {name: counts[name][label] for name in counts}
        labels.append({"name": label, "counts": by_part, "precision": precision, "recall": recall, "f1": f1})
        if isinstance(task, MultiLabelClassification):
            labels[-1]["threshold"] = task.thresholds[place]
        if job.settings.class_weights:
            labels[-1]["weight"] = job.settings.class_weights[place]
    train = job.parts[TRAIN].examples
    seeds: list[Seed] = [
        {"seed": result["seed"], "epoch": result["epoch"], "metrics": {VALIDATION: result["metrics"]}}
        for result in results
    ]
    if last != VALIDATION:
        seeds[results.index(best)]["metrics"][last] = task.scores(examples, values)
    return {
        "schema": 1,
        "kind": job.options.kind,
        "multi_label": job.dataset.multi_label,
        "base": job.base.name,
        "base_revision": job.base.revision,
        "columns": dict(job.dataset.columns),
        "labels": labels,
        "metric": job.metric,
        "baseline": simplest_guess(task, train)[1],
        "parts": {name: _part(job, name) for name in job.parts},
        "best_seed": best["seed"],
        "seeds": seeds,
        "confusion": confusion(task, examples, values),
        "unanswerable": any(getattr(example, "answers", None) == () for example in train),
        "max_length": job.base.max_length,
        "lora": job.options.lora,
        "seconds": sum(result["seconds"] for result in results),
        "device": device_line(job.arguments.device, job.arguments.world_size),
        "versions": library_versions(_LIBRARIES),
    }


def _part(job: Job, name: str) -> Part:
    part, tokens = job.parts[name], job.tokens(name)
    return {
        "name": part.name,
        "revision": part.revision,
        "rows": len(part.examples),
        "truncated": len(job.too_long(name)),
        "tokens": int(tokens.sum()),
        "longest": int(tokens.max()),
    }


def _write_rows(
    job: Job,
    staged: Path,
    results: Sequence[SeedResult],
    best: SeedResult,
    predictions: dict[str, list[Prediction]],
) -> list[Row]:
    """Writes the scores of the best model on each part, and those of the other seeds on validation."""
    task, train = job.task, job.parts[TRAIN].examples
    guess, _ = simplest_guess(task, train)
    revision = model_revision(ModelReference.parse(str(staged)))
    stored, rows = Results(staged / RESULTS), []
    for part, predicted in predictions.items():
        data = job.parts[part]
        values = [prediction.value for prediction in predicted]
        bounds = intervals(task, data.examples, values, best["seed"])
        baselines = task.scores(data.examples, [guess] * len(data.examples))
        measured = {best["seed"]: task.scores(data.examples, values)}
        if part == VALIDATION:
            measured |= {result["seed"]: result["metrics"] for result in results if result is not best}
        for seed, metrics in measured.items():
            is_kept = seed == best["seed"]
            epoch = next(result["epoch"] for result in results if result["seed"] == seed)
            measurements = [
                Measurement(
                    metric,
                    value,
                    low=bounds.get(metric, (None, None))[0] if is_kept else None,
                    high=bounds.get(metric, (None, None))[1] if is_kept else None,
                    baseline=baselines[metric],
                    scale=100,
                    selected_on=VALIDATION,
                    learning_rate=job.arguments.learning_rate,
                    epochs=round(epoch),
                    train_examples=len(train),
                )
                for metric, value in metrics.items()
            ]
            run = Run(
                task=f"finetune-{job.options.kind}",
                model=job.folder.out.resolve().name,
                revision=revision,
                protocol="default",
                settings={},
                seed=seed,
                dataset=data.name,
                dataset_revision=data.revision,
                split=part,
                examples=len(data.examples),
            )
            instances = [
                {"example": place, "prediction": value, "label": task.gold(example)}
                for place, (example, value) in enumerate(zip(data.examples, values, strict=True))
            ]
            rows += stored.write(run, measurements, instances if is_kept else ())
    return rows
