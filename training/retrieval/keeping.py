"""Completes the directory of a retrieval model: measurements, baselines, record, result rows, plots and report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.progress import progress_bar
from llm_jp_modernbert.core.references import ModelReference
from llm_jp_modernbert.core.results import RERANKED, Measurement, Results, Row, Run
from llm_jp_modernbert.core.terminal import console, printable
from llm_jp_modernbert.core.versions import library_versions
from llm_jp_modernbert.inference.loading import model_revision
from llm_jp_modernbert.inference.retrieval.bm25 import BM25
from llm_jp_modernbert.inference.retrieval.rankers import Ranker, Reranker, ranker_of

from ..finetuning.finetune.base import open_base
from ..finetuning.finetune.folder import RESULTS, SeedResult
from ..finetuning.record import ERRORS, Part, Seed
from ..report import device_line
from .job import Job
from .measuring import CANDIDATES, WORST, Benchmark, Scores, index_facts, measure, ndcg_by_length
from .options import EmbedderOptions, RerankerOptions
from .plots import draw_all
from .record import Baseline, Negatives, Record, task_of, write_record
from .registry import kind_of
from .report import kept_rows, main_row, write_report

_LIBRARIES = (
    *("llm-jp-modernbert", "sentence-transformers", "transformers", "torch", "tokenizers", "accelerate"),
    *("bm25s", "sudachipy"),
)


@dataclass(frozen=True)
class System:
    """Something that is measured.

    Attributes:
        name: its name in the results.
        revision: commit of the repository, or `sha256:…` of the weights; empty for BM25.
        model: model of sentence-transformers, which scores pairs; None for one that only ranks.
        ranker: ranks passages.
    """

    name: str
    revision: str
    model: Any
    ranker: Ranker

    def measures(self, benchmark: Benchmark) -> bool:
        """Whether this system has the scores of a part."""
        return self.model is not None or not benchmark.is_scored


def keep(job: Job, results: Sequence[SeedResult], best: SeedResult) -> None:
    """Measures the best model and the baselines on validation and, for the first time, on test, and completes its
    directory.

    Args:
        job: the training.
        results: all trainings.
        best: the training whose model is kept.
    """
    staged = job.folder.stage(best["seed"])
    kept = _kept(job, staged)
    with progress_bar(console(), transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def progress(share: float) -> None:
            bar.update(task, completed=share)

        def scores_of(system: System) -> dict[str, Scores]:
            scores = {}
            for name, benchmark in job.benchmarks.items():
                if system.measures(benchmark):
                    bar.update(task, description=printable(f"{system.name} on {name}"), completed=0.0)
                    scores[name] = measure(benchmark, system.model, system.ranker, job.tokens_per_batch, progress)
            return scores

        measured = scores_of(kept)
        record = _record(job, results, best, kept.model, measured)
        baselines = [(system, scores_of(system)) for system in _baselines(job)]
    systems = [(kept, measured), *((system, scores) for system, scores in baselines if scores)]
    record["baselines"] = [
        Baseline(name=system.name, metrics={part: scores.metrics for part, scores in by_part.items()})
        for system, by_part in systems[1:]
    ]
    rows: list[Row] = []
    for system, by_part in systems:
        rows += _write_rows(job, staged, system, by_part, results if system is kept else (), best)
    write_record(staged, record)
    _write_errors(
        staged / ERRORS, {part: scores for part, scores in measured.items() if part != "validation"} or measured
    )
    main = {key: main_row(of_system) for key, of_system in kept_rows(record, rows).items()}
    draw_all(staged, record, main, results)
    write_report(staged, job, record, rows)
    job.folder.finish(staged)


def _kept(job: Job, staged: Path) -> System:
    """The saved model."""
    reference = ModelReference.parse(str(staged))
    base = open_base(str(staged), max_length=job.base.max_length)
    model = job.kind.build(base, job.options.seed, job.data.train.form)
    model.to(job.arguments.device)
    return System(job.folder.out.resolve().name, model_revision(reference), model, job.ranker(model))


def _baselines(job: Job) -> Iterator[System]:
    """The base before training, the candidates of a reranker, and BM25."""
    base, form, options = job.base, job.data.train.form, job.options
    if job.kind.is_own(base):
        model = job.kind.build(base, options.seed, form).to(job.arguments.device)
        yield System(f"{base.name} (before training)", base.revision, model, job.ranker(model))
    else:
        # The base does not know the prompts, which would make it worse.
        embedder = kind_of(
            EmbedderOptions(base=options.base, tokenizer=options.tokenizer, query_prompt="", passage_prompt="")
        )
        model = embedder.build(base, options.seed, form).to(job.arguments.device)
        yield System(f"{base.name} (mean pooling)", base.revision, model, ranker_of(model, job.tokens_per_batch))
    if isinstance(options, RerankerOptions) and job.candidates is not None and options.candidates != "bm25":
        yield System(_name(options.candidates), "", None, job.candidates)
    bm25 = BM25()
    yield System("bm25", bm25.revision, None, bm25)


def _name(model: str) -> str:
    """A repository, or the name of a directory without its parents."""
    reference = ModelReference.parse(model)
    return reference.path.resolve().name if reference.is_local else reference.name


def _record(
    job: Job, results: Sequence[SeedResult], best: SeedResult, model: Any, measured: Mapping[str, Scores]
) -> Record:
    """The record, without baselines."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    options, form = job.options, job.data.train.form
    seeds: list[Seed] = [
        {"seed": result["seed"], "epoch": result["epoch"], "metrics": {"validation": result["metrics"]}}
        for result in results
    ]
    seeds[results.index(best)]["metrics"] = {part: scores.metrics for part, scores in measured.items()}
    is_reranker = isinstance(options, RerankerOptions)
    mined = Negatives(per_pair=options.mine_negatives, model=_name(options.mine_with or options.base))
    matryoshka = list(options.matryoshka) if isinstance(options, EmbedderOptions) else []
    record: Record = {
        "schema": 1,
        "kind": options.kind,
        "form": form,
        "loss": job.kind.loss_name(form),
        "base": job.base.name,
        "base_revision": job.base.revision,
        "columns": dict(job.data.columns),
        "prompts": {} if is_reranker else job.kind.prompts(form),
        "pooling": next((module.pooling_mode for module in model if isinstance(module, Pooling)), ""),
        "similarity": "" if is_reranker else model.similarity_fn_name,
        "dimensions": 0 if is_reranker else model.get_embedding_dimension(),
        "matryoshka": matryoshka,
        "negatives": mined if options.mine_negatives else None,
        "teacher": _name(options.teacher) if options.teacher else None,
        "metric": job.metric,
        "parts": {name: _part(job, name) for name in job.parts},
        "best_seed": best["seed"],
        "seeds": seeds,
        "baselines": [],
        "candidates": f"{_name(options.candidates)}, {CANDIDATES}" if isinstance(options, RerankerOptions) else "",
        "max_length": job.base.max_length,
        "seconds": sum(result["seconds"] for result in results),
        "device": device_line(job.arguments.device, job.arguments.world_size),
        "versions": library_versions(_LIBRARIES),
    }
    last = list(job.benchmarks.values())[-1]
    record["index"] = index_facts(options.kind, model, last, job.tokens_per_batch)
    if matryoshka and not last.is_scored:
        lengths = {*matryoshka, record["dimensions"]}
        record["by_length"] = ndcg_by_length(model, last.search, lengths, job.tokens_per_batch)
    return record


def _part(job: Job, name: str) -> Part:
    part, lengths = job.parts[name], job.lengths[name]
    return {
        "name": part.name,
        "revision": part.revision,
        "rows": len(part.examples),
        "truncated": len(job.too_long(name)),
        "tokens": int(sum(tokens.sum() for tokens in lengths)),
        "longest": int(max(tokens.max() for tokens in lengths)),
    }


def _write_rows(
    job: Job,
    staged: Path,
    system: System,
    by_part: Mapping[str, Scores],
    trainings: Sequence[SeedResult],
    best: SeedResult,
) -> list[Row]:
    """Writes the scores of a system on each part, and those of the other trainings on validation."""
    stored, rows = Results(staged / RESULTS), []
    tests = [benchmark for name, benchmark in job.benchmarks.items() if name != "validation"]
    averaged = [test.part.name for test in tests] if len({test.metric for test in tests}) == 1 < len(tests) else []
    for part, scores in by_part.items():
        benchmark = job.benchmarks[part]
        bounds = scores.intervals(best["seed"])
        measured = {best["seed"]: scores.metrics}
        if part == "validation":
            measured |= {result["seed"]: result["metrics"] for result in trainings if result is not best}
        for seed, metrics in measured.items():
            is_kept = seed == best["seed"]
            epoch = next((result["epoch"] for result in trainings if result["seed"] == seed), None)
            measurements = [
                Measurement(
                    metric,
                    value,
                    low=bounds.get(metric, (None, None))[0] if is_kept else None,
                    high=bounds.get(metric, (None, None))[1] if is_kept else None,
                    scale=100,
                    selected_on=None if epoch is None else "validation",
                    learning_rate=None if epoch is None else job.arguments.learning_rate,
                    epochs=None if epoch is None else round(epoch),
                    train_examples=None if epoch is None else len(job.data.train.examples),
                    averaged_with=averaged if metric == benchmark.metric and part != "validation" else (),
                )
                for metric, value in metrics.items()
            ]
            run = Run(
                task=task_of(job.options.kind),
                model=system.name,
                revision=system.revision,
                protocol="default",
                settings=_settings(job, system, benchmark),
                seed=seed,
                dataset=benchmark.part.name,
                dataset_revision=benchmark.part.revision,
                split=part.partition(":")[0],
                examples=benchmark.size,
            )
            rows += stored.write(run, measurements, scores.instances() if is_kept else ())
    return rows


def _settings(job: Job, system: System, benchmark: Benchmark) -> dict[str, Any]:
    """The number of passages, for values that can be compared, and the candidates of a reranker."""
    settings: dict[str, Any] = {} if benchmark.is_scored else {"passages": len(benchmark.search.corpus)}
    if isinstance(job.options, RerankerOptions) and isinstance(system.ranker, Reranker) and not benchmark.is_scored:
        settings[RERANKED] = f"top {CANDIDATES} of {_name(job.options.candidates)}"
    return settings


def _write_errors(path: Path, measured: Mapping[str, Scores]) -> None:
    errors = [
        {"part": part, **error}
        for part, scores in measured.items()
        for error in scores.worst()[: WORST // len(measured)]
    ]
    lines = (json.dumps(error, ensure_ascii=False) for error in errors)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
