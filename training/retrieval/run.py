"""The course of a retrieval training: data, trainings of all seeds, and the best model."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.version import Version

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock

from .options import RerankerOptions, RetrievalOptions

if TYPE_CHECKING:
    from llm_jp_modernbert.core.results import Row

    from .dataset import RetrievalData
    from .job import Job
    from .record import Record

_PACKAGES = {
    "sentence-transformers": "6.2",
    "bm25s": "0.3",
    "sudachipy": "0.6.10",
    "sudachidict-core": "0",
    "scipy": "1.15",
    "matplotlib": "3.10",
}
_RANKING_METRICS = ("ndcg@10", "mrr@10", "map@100", "recall@10", "recall@100", "accuracy@1")
_CORRELATIONS = ("spearman", "pearson")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        folder: directory of the model.
        record: content of its `retrieval.json`.
        rows: its scores, and those of the systems that it is compared with.
    """

    folder: Path
    record: Record
    rows: list[Row]


def read_trained(folder: Path) -> Trained:
    """Reads what `train_retrieval` has written into a directory.

    Raises:
        UsageError: it holds no valid record.
    """
    from llm_jp_modernbert.core.results import Results

    from ..finetuning.finetune.folder import RESULTS
    from .record import RECORD, read_record

    record = read_record(folder)
    if record is None:
        raise UsageError(f"{folder} has no {RECORD}, so train-embedder or its siblings have not written it.")
    return Trained(folder, record, list(Results(folder / RESULTS).rows()))


def train_retrieval(options: RetrievalOptions) -> Trained:
    """Trains an embedder, a reranker, a sparse or a late-interaction model, and keeps it with its scores.

    Every seed is trained from the base, and the model with the best validation score is kept. A second call with the
    same options continues an interrupted training, and returns a finished one as it is.

    Args:
        options: the options of the command; their class is the type of model.

    Returns:
        The directory, the record and the scores.

    Raises:
        UsageError: the data, the base or an option is unusable, which is found before any training; every training
            diverged; or a signal stopped it. The message is one line.

    Example:
        >>> options = EmbedderOptions("ORG/NAME", train=["jaquad.json"], out=Path("my-embedder"))
        >>> train_retrieval(options).record["seeds"][0]["metrics"]["validation"]["ndcg@10"]
        0.83
    """
    _check_packages(options)
    from ..finetuning.finetune.base import open_base
    from ..finetuning.finetune.folder import Folder, recipe_of
    from ..pretrain import on_main
    from .arguments import retrieval_arguments
    from .job import Job
    from .loading import load_data, trained_form
    from .registry import kind_of
    from .report import end_lines, start_lines
    from .trainings import RetrievalTrainings

    kind = kind_of(options)
    folder = Folder(options.out, f"train-{options.kind}")
    arguments = retrieval_arguments(options, folder.unfinished, options.seed)
    base = open_base(options.base, options.tokenizer, options.max_length)
    is_main = arguments.process_index == 0
    with ExitStack() as held:
        on_main(arguments, lambda: held.enter_context(lock(options.out, f"train-{options.kind}")))
        data = load_data(options, kind.forms)
        defaults = kind.trainer_arguments(trained_form(options, data.train.form))
        arguments = retrieval_arguments(options, folder.unfinished, options.seed, defaults)
        recipe = {"kind": options.kind, **recipe_of(options, base, arguments, data.columns, _revisions(options, data))}
        is_finished = on_main(arguments, partial(folder.open, recipe))
        if not is_finished:
            job = Job(options, kind, base, data, folder, arguments)
            _check(job)
            if options.mine_negatives or options.teacher:
                job = replace(job, data=on_main(arguments, partial(_prepared, job)))
            # The loss may not learn from the data.
            kind.columns(job.data.train.examples, job.data.train.form)
            for line in start_lines(job) if is_main else ():
                logger.info("%s", line)
            RetrievalTrainings(job).run()
        finished = read_trained(options.out)
    if is_finished and is_main:
        logger.info("%s is already finished. These are its scores:", options.out)
    for line in end_lines(finished.folder, finished.record, finished.rows) if is_main else ():
        logger.info("%s", line)
    return finished


def _check_packages(options: RetrievalOptions) -> None:
    for package, minimum in _PACKAGES.items():
        try:
            is_usable = Version(version(package)) >= Version(minimum)
        except PackageNotFoundError:
            is_usable = False
        if not is_usable:
            raise UsageError(
                f"train-{options.kind} needs {package} {minimum} or later: pip install 'llm-jp-modernbert[retrieval]'."
            )


def _revisions(options: RetrievalOptions, data: RetrievalData) -> dict[str, str]:
    """Revisions of all data, and of the models that mine, teach or find candidates."""
    from llm_jp_modernbert.core.references import ModelReference
    from llm_jp_modernbert.inference.loading import model_revision

    parts = {"train": data.train, "validation": data.validation}
    parts |= {f"test:{number}": part for number, part in enumerate(data.tests, 1)}
    candidates = options.candidates if isinstance(options, RerankerOptions) and options.candidates != "bm25" else None
    models = {"mine_with": options.mine_with, "teacher": options.teacher, "candidates": candidates}
    revisions = {name: part.revision for name, part in parts.items()} | {"corpus": data.corpus_revision}
    revisions |= {name: model_revision(ModelReference.parse(model)) for name, model in models.items() if model}
    return {name: revision for name, revision in revisions.items() if revision}


def _prepared(job: Job) -> RetrievalData:
    """The data with mined negatives and the scores of a teacher, which a rerun reads from the directory."""
    from .negatives import mine_negatives
    from .teacher import score_with_teacher

    folder, options = job.folder, job.options
    folder.start()
    try:
        data = mine_negatives(job.data, options, job.base, folder.unfinished, job.tokens_per_batch)
        return score_with_teacher(data, options, folder.unfinished, job.tokens_per_batch)
    except UsageError:
        folder.discard()
        raise


def _check(job: Job) -> None:
    """Checks what depends on the data, before anything is written.

    Raises:
        UsageError: the metric does not exist or is undefined, no batch is full, or a model cannot be loaded.
    """
    from ..pretrain import on_main
    from ..recipe.shapes import check_known
    from .loading import trained_form

    # This loads the model that finds them.
    on_main(job.arguments, lambda: job.candidates is not None)
    benchmark = job.benchmarks["validation"]
    check_known(
        job.metric, _CORRELATIONS if benchmark.is_scored else _RANKING_METRICS, "metric_for_best_model", "value"
    )
    if benchmark.is_scored and len(set(benchmark.gold.tolist())) < 2:
        raise UsageError(
            f"{job.metric} is undefined on the {benchmark.size:,} validation examples, which have one score. Name a "
            "--validation file with different scores."
        )
    arguments, count = job.arguments, len(job.data.train.examples)
    form = trained_form(job.options, job.data.train.form)
    if form in ("pairs", "texts") and arguments.per_device_train_batch_size == 1:
        raise UsageError(
            "per_device_train_batch_size: the negatives of an example are the other passages of its batch, so nothing "
            "is learned from batches of 1. Set it higher."
        )
    size = arguments.per_device_train_batch_size * arguments.world_size
    if arguments.dataloader_drop_last and count < size:
        raise UsageError(
            f"per_device_train_batch_size: {count:,} training examples do not fill a batch of {size:,}. Set it lower."
        )
