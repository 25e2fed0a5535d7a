"""The course of a fine-tuning: data, trainings, and the best model."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock

from ..data.dataset import TRAIN, VALIDATION
from ..options import FinetuneOptions

if TYPE_CHECKING:
    import numpy as np

    from ..arguments import FinetuningArguments
    from ..data.dataset import Dataset
    from ..head_task import HeadTask
    from ..trainer import FinetuningTrainer
    from .base import Base
    from .folder import Finetuned, SeedResult
    from .job import Job

_PACKAGES = {"sklearn": "scikit-learn", "scipy": "scipy", "seqeval": "seqeval", "matplotlib": "matplotlib"}
# Options that do not affect the model, and those that `arguments` contains.
_NOT_DECISIVE = ("out", "tokens_per_batch", "overrides")
# Arguments that the recipe names even if they are transformers' defaults.
_ALWAYS_NAMED = (
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "lr_scheduler_type",
    "weight_decay",
)

logger = logging.getLogger(__name__)


def finetune(options: FinetuneOptions) -> Finetuned:
    """Fine-tunes a model on the user's data and keeps it with its scores.

    Every seed is trained from the base, and the model with the best validation score is kept. A second call with the
    same options continues an interrupted fine-tuning, and returns a finished one as it is.

    Args:
        options: the options of the command.

    Returns:
        The directory, the record and the scores.

    Raises:
        UsageError: the data, the base or an option is unusable, which is found before any training; every training
            diverged; or a signal stopped it. The message is one line.

    Example:
        >>> options = FinetuneOptions("classification", "ORG/NAME", train=["reviews.csv"], out=Path("my-classifier"))
        >>> finetune(options).record["seeds"][0]["metrics"]["validation"]["macro_f1"]
        0.91
    """
    _check_packages(options)
    from ...pretrain import on_main
    from ..arguments import finetuning_arguments
    from ..data.loading import load_dataset
    from .base import open_base
    from .folder import Folder, read_finished
    from .job import Job
    from .report import end_lines, start_lines

    folder = Folder(options.out)
    arguments = finetuning_arguments(options, folder.unfinished, options.seed)
    base = open_base(options.base, options.tokenizer, options.max_length)
    is_main = arguments.process_index == 0
    with ExitStack() as held:
        on_main(arguments, lambda: held.enter_context(lock(options.out, "finetune")))
        dataset = load_dataset(options)
        is_finished = on_main(arguments, partial(folder.open, _recipe(options, base, dataset, arguments)))
        if not is_finished:
            parts = dataset.parts.items()
            encode = partial(dataset.task.encode, base.tokenizer)
            inputs = {name: encode(part.examples, base.max_length) for name, part in parts}
            job = Job(options, base, dataset, inputs, folder, arguments)
            job.task.check_metric(job.metric, job.parts[VALIDATION].examples)
            for line in start_lines(job) if is_main else ():
                logger.info("%s", line)
            _Training(job).run()
        finished = read_finished(options.out)
    if is_finished and is_main:
        logger.info("%s is already finished. These are its scores:", options.out)
    for line in end_lines(finished) if is_main else ():
        logger.info("%s", line)
    return finished


def _check_packages(options: FinetuneOptions) -> None:
    needed = {**_PACKAGES, "peft": "peft"} if options.lora else _PACKAGES
    for module, package in needed.items():
        if find_spec(module) is None:
            raise UsageError(f"finetune needs {package}: pip install 'llm-jp-modernbert[finetune]'.")


def _recipe(options: FinetuneOptions, base: Base, dataset: Dataset, arguments: FinetuningArguments) -> dict[str, Any]:
    """Everything that the model depends on: options, revisions, and arguments unlike transformers' defaults."""
    from ...recipe.arguments import LaunchedArguments
    from ...recipe.loading import NOT_DECISIVE, plain_values
    from ...recipe.validation import default_values, plain_value

    chosen = {name: value for name, value in asdict(options).items() if name not in _NOT_DECISIVE}
    chosen["base_revision"] = base.revision
    chosen["max_length"] = base.max_length
    chosen["columns"] = dict(dataset.columns)
    chosen["data_revisions"] = {name: part.revision for name, part in dataset.parts.items()}
    defaults = default_values(LaunchedArguments)
    chosen["arguments"] = {
        name: value
        for name, value in plain_values(arguments).items()
        if name not in NOT_DECISIVE and (name in _ALWAYS_NAMED or value != plain_value(defaults[name]))
    }
    return chosen


class _Training:
    """The trainings of all seeds."""

    def __init__(self, job: Job) -> None:
        from ...run.checkpoints import StopSignals

        self.job, self.task, self.folder = job, job.task, job.folder
        self.stop = StopSignals()

    def run(self) -> None:
        """Trains the seeds that are not finished, and keeps the best model."""
        from ...pretrain import on_main
        from .keeping import keep

        first, count = self.job.options.seed, self.job.options.seeds
        with self.stop.listening():
            results = [self._train(seed) for seed in range(first, first + count)]
        best = max(results, key=self._score)
        if math.isinf(self._score(best)):
            raise UsageError(
                f"{self.job.metric} is undefined after every epoch: the training diverged, or predicts one value. "
                "Lower learning_rate, or train for more epochs, in a different --out."
            )
        on_main(self.job.arguments, partial(keep, self.job, results, best))

    def _score(self, result: SeedResult) -> float:
        # Thresholds are tuned after the epochs were compared, so the score may differ from that of the epoch.
        if self.job.metric in result["metrics"]:
            value = result["metrics"][self.job.metric]
        else:
            value = next((value for epoch, value in result["scores"] if epoch == result["epoch"]), None)
        sign = -1 if self.job.lower_is_better else 1
        return -math.inf if value is None else sign * value

    def _train(self, seed: int) -> SeedResult:
        """The result of a seed, trained if it is not finished."""
        from ...pretrain import on_main
        from ...run.checkpoints import newest_sound
        from ..arguments import finetuning_arguments
        from ..trainer import train_model
        from .base import load_with_head
        from .progress import EpochLines

        job, directory = self.job, self.folder.seed(seed)
        arguments = finetuning_arguments(job.options, directory, seed)
        before: SeedResult | None = on_main(arguments, partial(self.folder.result, seed))
        if before is not None:
            if arguments.process_index == 0:
                logger.info("  seed %d was trained earlier", seed)
            return before
        # A signal in the last step of a seed does not stop that seed.
        if received := on_main(arguments, lambda: self.stop.received):
            raise UsageError(
                f"{received}: stopped before seed {seed}. The finished seeds are in {self.folder.unfinished}. Run the "
                "same command again to continue."
            )
        started = time.perf_counter()
        model = load_with_head(job.base, self.task, seed)
        on_main(arguments, self.folder.start)
        checkpoint = on_main(arguments, partial(newest_sound, directory))
        lines = EpochLines(f"seed {seed}", job.metric)
        with closing(lines):
            trainer = train_model(
                model,
                self.task,
                job.base.tokenizer,
                job.inputs[TRAIN],
                job.inputs[VALIDATION],
                job.parts[VALIDATION].examples,
                arguments,
                job.settings,
                checkpoint,
                [lines] if arguments.process_index == 0 else [],
                self.stop,
            )
        if trainer.stopping:
            raise UsageError(
                f"{self.stop.received or 'A signal'}: stopped in seed {seed}. Its checkpoint and the finished "
                f"seeds are in {self.folder.unfinished}. Run the same command again to continue."
            )
        logits = trainer.predict_logits(job.inputs[VALIDATION])
        task = self.task.tuned(job.inputs[VALIDATION], logits, job.parts[VALIDATION].examples)
        result = self._result(task, logits, trainer, time.perf_counter() - started)
        on_main(arguments, partial(self._save, task, trainer, result))
        return result

    def _result(
        self, task: HeadTask[Any], logits: Sequence[np.ndarray], trainer: FinetuningTrainer, seconds: float
    ) -> SeedResult:
        from .measuring import scores

        log, evaluated = trainer.state.log_history, f"eval_{self.job.metric}"
        values = [(entry["epoch"], entry[evaluated]) for entry in log if evaluated in entry]
        sign = -1 if self.job.lower_is_better else 1
        return {
            "seed": trainer.args.seed,
            "epoch": max(values, key=lambda point: sign * point[1], default=(0.0, 0.0))[0],
            "seconds": seconds,
            "metrics": scores(task, self.job.inputs[VALIDATION], logits, self.job.parts[VALIDATION].examples),
            "losses": [(entry["epoch"], entry["loss"]) for entry in log if "loss" in entry],
            "scores": values,
        }

    def _save(self, task: HeadTask[Any], trainer: FinetuningTrainer, result: SeedResult) -> None:
        from .folder import MODEL

        target = self.folder.seed(result["seed"]) / MODEL
        for name, value in task.decision_settings().items():
            setattr(trainer.model.config, name, value)
        trainer.model.save_pretrained(target)
        self.job.base.tokenizer.save_pretrained(target)
        self.folder.keep(result)
