"""JMTEB, the Japanese embedding benchmark (Li et al. 2024), run by the library `mteb`.

Each of its tasks is a separate measurement, so an interrupted run resumes with the next one. Data, revisions, splits,
prompts and scores are mteb's; embeddings come from the same SentenceTransformer as in the other tasks. Both protocols
are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.results import Measurement
from llm_jp_modernbert.inference.retrieval.encoding import NOT_FINITE

from ..data.options import Data, Options
from ..encoders.embeddings import embedder_of
from .task import Outcome, Progress, Task

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..encoders.models import EvaluatedModel

BENCHMARKS = {"jmteb": "JMTEB(v2)", "jmteb-lite": "JMTEB-lite(v1)"}
"""mteb's names of the benchmarks; the second one has smaller retrieval corpora."""

# Reported in addition to mteb's main score, if the kind of task has them.
_OTHER_METRICS = ("accuracy", "f1", "cosine_pearson", "mrr_at_10", "recall_at_100")
# mteb's batches have a fixed number of texts; most texts are not longer than this.
_USUAL_LENGTH = 512


@dataclass(frozen=True)
class Jmteb(Task):
    """One task of JMTEB.

    Attributes:
        benchmark: a key of `BENCHMARKS`.
        dataset: mteb's name of the task.
        mteb: version of the library.
        pooling: pooling of the embeddings.
    """

    benchmark: str
    dataset: str
    mteb: str
    pooling: str = "auto"

    name = "jmteb"
    hub_task = "sentence-similarity"

    @classmethod
    def selectors(cls) -> tuple[str, ...]:
        """The benchmarks, and `jmteb:TASK` for one of their tasks."""
        return (*BENCHMARKS, f"{cls.name}:TASK")

    @classmethod
    def select(cls, selector: str) -> Sequence[Callable[[Options], Task]]:
        """The tasks of `jmteb` or `jmteb-lite`, or one task of them.

        Raises:
            UsageError: mteb is not installed, or has no such task.
        """
        benchmark, _, dataset = selector.partition(":")
        known = _tasks(benchmark)
        if dataset and dataset not in known:
            names = ", ".join(known)
            raise UsageError(f"--tasks {selector}: {BENCHMARKS[benchmark]} has no such task. Choose from {names}.")
        return [partial(_make, benchmark, chosen) for chosen in ([dataset] if dataset else known)]

    @property
    def title(self) -> str:
        """The name with the task's: tasks differ in data, metric and kind."""
        return f"{self.name}-{self.dataset}"

    @property
    def selector(self) -> str:
        return f"{self.name}:{self.dataset}"

    def settings(self) -> dict[str, Any]:
        """All but the benchmark: a task is the same in both."""
        return {key: value for key, value in super().settings().items() if key != "benchmark"}

    def load(self) -> Data:
        """Name and size of the data, which mteb reads itself; examples are texts, pairs, or queries and documents."""
        task = _tasks(self.benchmark)[self.dataset]
        dataset = task.metadata.dataset
        sizes = _sizes(task)
        return Data(dataset["path"], dataset["revision"], ", ".join(sizes), range(sum(sizes.values())))

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """The main score and some others for each split; the instances contain all of mteb's scores."""
        import mteb

        task = _tasks(self.benchmark)[self.dataset]
        try:
            task.load_data()
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"dataset {data.name} cannot be loaded from the Hub ({first_line(error)}). mteb reads only from the "
                "Hub or its cache: run this task once with network access."
            ) from error
        transformer = embedder_of(model, self.pooling).transformer
        encode_settings: Any = {
            "batch_size": max(1, model.tokens_per_batch // _USUAL_LENGTH),
            "show_progress_bar": False,
        }
        texts = len(data.examples) * (2 if task.metadata.type == "STS" else 1)
        try:
            with _counting(transformer, lambda done: progress(min(1.0, done / texts))):
                results = mteb.evaluate(
                    transformer,
                    task,
                    co2_tracker=False,
                    cache=None,
                    encode_kwargs=encode_settings,
                    show_progress_bar=False,
                )
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"{self.title}: mteb cannot evaluate {model.name} ({first_line(error)}).") from error
        finally:
            task.unload_data()
        instances = [
            {"split": split, "subset": scores["hf_subset"], "metric": metric, "value": value}
            for split, parts in results.task_results[0].scores.items()
            for scores in parts
            for metric, value in scores.items()
            if isinstance(value, float) and math.isfinite(value)
        ]
        main, sizes = task.metadata.main_score, _sizes(task)
        has_subsets = len({score["subset"] for score in instances}) > 1
        measurements = [
            Measurement(
                score["metric"],
                score["value"],
                subset=score["subset"] if has_subsets else "",
                examples=sizes[score["split"]],
                split=score["split"],
                scale=100,
            )
            for score in instances
            if score["metric"] in (main, *_OTHER_METRICS)
        ]
        if not any(measurement.metric == main for measurement in measurements):
            raise UsageError(f"{self.title}: the {main} of {model.name} is not a number.")
        return Outcome(measurements, instances)


def _make(benchmark: str, dataset: str, options: Options) -> Jmteb:
    import mteb

    if options.limit is not None:
        raise UsageError(f"{benchmark} always uses all of its data: remove --limit.")
    return Jmteb(options, benchmark, dataset, mteb.__version__, options.pooling)


def _tasks(benchmark: str) -> dict[str, Any]:
    """Tasks of a benchmark by name, restricted to Japanese, without their data."""
    try:
        import mteb
    except ImportError as error:
        raise UsageError(f"{benchmark} needs mteb: pip install 'llm-jp-modernbert[mteb]'.") from error
    try:
        return {task.metadata.name: task for task in mteb.get_benchmark(BENCHMARKS[benchmark]).tasks}
    except KeyError as error:
        raise UsageError(
            f"mteb {mteb.__version__} has no {BENCHMARKS[benchmark]}: pip install -U 'llm-jp-modernbert[mteb]'."
        ) from error


def _sizes(task: Any) -> dict[str, int]:
    """Number of examples of each split, from mteb's statistics."""
    statistics = task.metadata.descriptive_stats or {}
    if any(split not in statistics for split in task.eval_splits):
        raise UsageError(f"mteb does not state how many examples {task.metadata.name} has, so it is skipped.")
    sizes = {}
    for split in task.eval_splits:
        by_subset = statistics[split].get("hf_subset_descriptive_stats") or {}
        parts = [by_subset[subset] for subset in task.hf_subsets if subset in by_subset] or [statistics[split]]
        sizes[split] = sum(part["num_samples"] for part in parts)
    return sizes


@contextmanager
def _counting(transformer: SentenceTransformer, progress: Callable[[int], None]) -> Iterator[None]:
    """Reports the number of texts that a SentenceTransformer has encoded, and raises an error if one is not finite."""
    done = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal done
        if not output["sentence_embedding"].isfinite().all():
            raise UsageError(NOT_FINITE)
        done += len(output["sentence_embedding"])
        progress(done)

    hook = transformer[-1].register_forward_hook(count)
    try:
        yield
    finally:
        hook.remove()
