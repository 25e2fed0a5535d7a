"""JMTEB, the Japanese benchmark of embeddings (Li et al. 2024), as the library `mteb` runs it.

Each of its tasks is a measurement of its own, so that what is interrupted goes on with the next of them. Data,
revisions, splits, prompts and scores are mteb's; what is encoded goes through the same SentenceTransformer as in the
other tasks. The same in both protocols.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from llm_jp_modernbert.core.errors import UsageError

from ..encoders.embeddings import embedder_of
from ..report.results import Measurement
from .task import Data, Options, Outcome, Progress, Task

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..encoders.models import EvaluatedModel

BENCHMARKS = {"jmteb": "JMTEB(v2)", "jmteb-lite": "JMTEB-lite(v1)"}
"""What mteb calls them; the second has smaller collections to search in."""

# What is reported beside mteb's main score, where the kind of task has it.
_OTHERS = ("accuracy", "f1", "cosine_pearson", "mrr_at_10", "recall_at_100")
# A batch is of so many texts whatever their length, so most are taken to be no longer than this.
_USUAL_LENGTH = 512


@dataclass(frozen=True)
class Jmteb(Task):
    """Attributes are the settings.

    Attributes:
        benchmark: a key of `BENCHMARKS`.
        dataset: mteb's name of one of its tasks.
        mteb: the library's version.
        pooling: of the embeddings.
    """

    benchmark: str
    dataset: str
    mteb: str
    pooling: str = "auto"

    name: ClassVar[str] = "jmteb"

    @property
    def title(self) -> str:
        """With the task's name: its data, metric and kind are others than its sisters'."""
        return f"{self.name}-{self.dataset}"

    @property
    def selector(self) -> str:
        """The value of `--tasks` that selects this task."""
        return f"{self.name}:{self.dataset}"

    def settings(self) -> dict[str, Any]:
        """Which benchmark a task was reached by changes nothing."""
        return {key: value for key, value in super().settings().items() if key != "benchmark"}

    def load(self) -> Data:
        """Which data mteb will read, and how many examples there are in all splits: texts, pairs, or queries and
        documents."""
        task = self._task()
        where = task.metadata.dataset
        sizes = _sizes(task)
        return Data(where["path"], where["revision"], ", ".join(sizes), range(sum(sizes.values())))

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """The main score of mteb, and some more, of each split; `instances` has all that are numbers."""
        import mteb

        task = self._task()
        try:
            task.load_data()
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"dataset {data.name} cannot be had from the Hub ({_line(error)}). mteb reads it from there "
                "or from the Hub's cache alone: let it be read once where there is a network."
            ) from error
        transformer = embedder_of(model, self.pooling).transformer
        settings: Any = {"batch_size": max(1, model.tokens_per_batch // _USUAL_LENGTH), "show_progress_bar": False}
        texts = len(data.examples) * (2 if task.metadata.type == "STS" else 1)
        try:
            with _counted(transformer, lambda done: progress(min(1.0, done / texts))):
                found = mteb.evaluate(
                    transformer, task, co2_tracker=False, cache=None, encode_kwargs=settings, show_progress_bar=False
                )
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"{self.title}: mteb cannot measure {model.name} ({_line(error)}).") from error
        finally:
            task.unload_data()
        instances = _figures(found.task_results[0])
        main, sizes = task.metadata.main_score, _sizes(task)
        several = len({instance["subset"] for instance in instances}) > 1
        measurements = [
            Measurement(
                figure["metric"],
                figure["value"],
                subset=figure["subset"] if several else "",
                examples=sizes[figure["split"]],
                split=figure["split"],
                scale=100,
            )
            for figure in instances
            if figure["metric"] in (main, *_OTHERS)
        ]
        if not any(one.metric == main for one in measurements):
            raise UsageError(f"{self.title}: the {main} of {model.name} is not a number.")
        return Outcome(measurements, instances)

    def _task(self) -> Any:
        return _tasks(self.benchmark)[self.dataset]


def makers(name: str) -> list[Callable[[Options], Task]]:
    """What makes the tasks that `jmteb`, `jmteb-lite` or `jmteb:TASK` stand for.

    Raises:
        UsageError: mteb is missing or has no such task.
    """
    benchmark, _, dataset = name.partition(":")
    known = _tasks(benchmark)
    if dataset and dataset not in known:
        raise UsageError(f"--tasks {name}: {BENCHMARKS[benchmark]} has no such task. Choose of {', '.join(known)}.")
    return [partial(_make, benchmark, chosen) for chosen in ([dataset] if dataset else known)]


def _make(benchmark: str, dataset: str, options: Options) -> Jmteb:
    import mteb

    if options.limit is not None:
        raise UsageError(f"{benchmark} is measured on all of its data: leave out --limit.")
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


def _figures(result: Any) -> list[dict[str, Any]]:
    """All of mteb's scores that are single numbers."""
    return [
        {"split": split, "subset": scores["hf_subset"], "metric": metric, "value": value}
        for split, parts in result.scores.items()
        for scores in parts
        for metric, value in scores.items()
        if isinstance(value, float) and math.isfinite(value)
    ]


def _sizes(task: Any) -> dict[str, int]:
    """Examples of each split, as mteb counted them."""
    counted = task.metadata.descriptive_stats or {}
    if any(split not in counted for split in task.eval_splits):
        raise UsageError(f"mteb does not tell how many examples {task.metadata.name} has, so it is left out.")
    sizes = {}
    for split in task.eval_splits:
        by_subset = counted[split].get("hf_subset_descriptive_stats") or {}
        parts = [by_subset[subset] for subset in task.hf_subsets if subset in by_subset] or [counted[split]]
        sizes[split] = sum(part["num_samples"] for part in parts)
    return sizes


@contextmanager
def _counted(transformer: SentenceTransformer, told: Callable[[int], None]) -> Iterator[None]:
    """Tells how many texts a SentenceTransformer has encoded: mteb does not."""
    done = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal done
        done += len(output["sentence_embedding"])
        told(done)

    hook = transformer[-1].register_forward_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
