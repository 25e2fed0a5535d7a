"""Base of the tasks that fine-tune a model: splits, grid search, training, selection.

Paper's protocol: 36 points (6 learning rates × 6 numbers of epochs, batch 32, 512 tokens, linear decay), reporting the
best score on the validation split; results say `selected_on: validation`. Default protocol: the six points of JGLUE's
own recipe (warm-up over 10 %), selected on a tenth of the training examples. The scores on that tenth (`dev`) and on
the public validation split are reported separately.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.results import GridPoint, Measurement
from llm_jp_modernbert.inference.auto import registered_for_modernbert
from llm_jp_modernbert.inference.loading import loading_errors
from llm_jp_modernbert.training.finetuning.head_task import HeadTask, ModelInput

from ..data.options import Data, Options
from .grid import Point, Trial, best, points, search
from .ranks import rank
from .task import Outcome, Progress, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llm_jp_modernbert.training.finetuning.trainer import FinetuningTrainer

    from ..encoders.models import EvaluatedModel

DEV = "dev"
"""Name of the part of the training split that selects the grid point."""

_PAPER_GRID = (5e-6, 1e-5, 2e-5, 3e-5, 5e-5, 1e-4), (1, 2, 3, 4, 5, 10)
_JGLUE_GRID = (5e-5, 3e-5, 2e-5), (3, 4)

Kind = TypeVar("Kind", bound="FineTuning")


@dataclass(frozen=True)
class Splits(Data):
    """Examples to report on, to train on, and to select on.

    Attributes:
        train: training examples.
        dev: examples that select the grid point; empty to select on the reported split.
        head_task: how the examples are learned and scored.
    """

    train: Sequence[Any] = field(default=(), repr=False)
    dev: Sequence[Any] = field(default=(), repr=False)
    # Always given; a default is required after fields with defaults.
    head_task: HeadTask[Any] = field(default=None, repr=False)


@dataclass(frozen=True)
class FineTuning(Task):
    """A task that fine-tunes a model with a new head; its metrics are shares or correlations.

    Attributes:
        learning_rates: learning rates of the grid.
        epochs: numbers of epochs of the grid.
        batch_size: examples per step.
        max_length: maximum tokens of an input.
        warmup: share of the steps with a rising learning rate, followed by linear decay to 0.
        held_out: one in `held_out` training examples is used for selection; 0 for none.
    """

    learning_rates: tuple[float, ...] = _JGLUE_GRID[0]
    epochs: tuple[int, ...] = _JGLUE_GRID[1]
    batch_size: int = 32
    max_length: int = 512
    warmup: float = 0.1
    held_out: int = 10

    shared: ClassVar[bool] = True

    metric: ClassVar[str]
    """Metric that selects the grid point."""

    metrics: ClassVar[tuple[str, ...]]
    """Reported metrics."""

    majority_baseline: ClassVar[bool] = False
    """Whether results include the scores of predicting the most frequent answer."""

    @classmethod
    def for_options(cls: type[Kind], options: Options) -> Kind:
        paper = options.protocol == "paper"
        rates, epochs = _PAPER_GRID if paper else _JGLUE_GRID
        task = cls(options, learning_rates=options.learning_rates or rates, epochs=options.epochs or epochs)
        return replace(task, max_length=512, warmup=0.0, held_out=0) if paper else task

    def diagnostics(self, tokenizer: PreTrainedTokenizerBase, data: Splits, length: int) -> dict[str, float | None]:
        """Further metrics of the reported split that do not depend on training."""
        return {}

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Trains every grid point, and reports the selected one."""
        assert isinstance(data, Splits)
        parts: dict[str, Sequence[Any]] = {data.split: data.examples}
        if data.dev:
            parts[DEV] = data.dev
        training = _Training(self, model, data, parts)
        grid = points(self.learning_rates, self.epochs)
        kept = self.options.work_dir
        with TemporaryDirectory() if kept is None else nullcontext(str(kept)) as folder:
            trials = search(grid, Path(folder), training.run, progress, wait=not rank())
        if rank():
            return Outcome([])
        selected_on = DEV if data.dev else data.split
        chosen = best(trials, selected_on, self.metric)
        if all(value is None for scores in chosen.scores.values() for value in scores.values()):
            raise UsageError(
                f"{self.name}: every training of {model.name} diverged, so no score is a number. Its weights are "
                "broken, or every learning rate is too high: try another --learning-rate."
            )
        measurements = []
        for part, examples in parts.items():
            baselines: dict[str, float | None] = {}
            if self.majority_baseline:
                majority, _ = Counter(map(data.head_task.gold, examples)).most_common(1)[0]
                baselines = data.head_task.scores(examples, [majority] * len(examples))
            for metric, value in chosen.scores[part].items():
                is_main = part == data.split and metric == self.metric and not data.train_files
                measurements.append(
                    Measurement(
                        metric,
                        value,
                        examples=len(examples),
                        baseline=baselines.get(metric),
                        split=part,
                        scale=100,
                        selected_on=selected_on,
                        **asdict(chosen.point),
                        train_examples=len(data.train),
                        grid=[_grid_point(trial, trial.scores[part][metric]) for trial in trials],
                        averaged_with=self.averaged_with if is_main else (),
                    )
                )
        measurements += [
            Measurement(metric, value, examples=len(data.examples), split=data.split, scale=100)
            for metric, value in self.diagnostics(model.tokenizer, data, training.length).items()
        ]
        instances = [
            {"example": number, "prediction": prediction, "label": data.head_task.gold(example)}
            for number, (example, prediction) in enumerate(zip(data.examples, chosen.predictions, strict=True))
        ]
        return Outcome(measurements, instances)


def _grid_point(trial: Trial, value: float | None) -> GridPoint:
    return {"learning_rate": trial.point.learning_rate, "epochs": trial.point.epochs, "value": value}


@dataclass
class _Training:
    """Trains and scores grid points of one task and one model; inputs are tokenized once."""

    task: FineTuning
    model: EvaluatedModel
    data: Splits
    parts: Mapping[str, Sequence[Any]]

    @property
    def length(self) -> int:
        """Maximum tokens of an input."""
        return min(self.task.max_length, self.model.max_length)

    @cached_property
    def rows(self) -> dict[str, list[ModelInput]]:
        """Inputs of each part."""
        parts = {"train": self.data.train, **self.parts}
        tokenizer, head_task = self.model.tokenizer, self.data.head_task
        return {part: head_task.encode(tokenizer, parts[part], self.length) for part in parts}

    def run(self, point: Point, progress: Progress) -> Trial:
        """Trains from the pre-trained weights, and scores every split."""
        import torch
        import transformers

        from llm_jp_modernbert.training.finetuning.trainer import TrainerSettings, tokens_at_once, train_model

        class ProgressCallback(transformers.TrainerCallback):
            """Reports the completed share of the steps."""

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                progress(state.global_step / state.max_steps)

        task, model, rows = self.task, self.model, self.rows
        head_task = self.data.head_task
        transformers.set_seed(task.options.seed)
        with TemporaryDirectory() as unused:
            arguments = transformers.TrainingArguments(
                output_dir=unused,
                per_device_train_batch_size=task.batch_size,
                per_device_eval_batch_size=task.batch_size,
                learning_rate=point.learning_rate,
                num_train_epochs=point.epochs,
                warmup_steps=task.warmup,
                seed=task.options.seed,
                bf16=model.dtype == "bfloat16",
                fp16=model.dtype == "float16",
                use_cpu=model.which.device == "cpu",
                dataloader_pin_memory=torch.cuda.is_available(),
                remove_unused_columns=False,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            if arguments.n_gpu > 1:
                # Keep the batch size: a Trainer uses all visible GPUs.
                arguments._n_gpu = 1
            trainer = train_model(
                load_head(model, head_task.head.auto_class, head_task.head_settings()),
                head_task,
                model.tokenizer,
                rows["train"],
                (),
                (),
                arguments,
                TrainerSettings(tokens_at_once(arguments.device)),
                callbacks=[ProgressCallback()],
            )
            predicted = {part: self._predict(trainer, part) for part in self.parts}
        scores = {
            part: {
                name: value if finite and value is not None and math.isfinite(value) else None
                for name, value in head_task.scores(self.parts[part], predictions).items()
                if name in task.metrics
            }
            for part, (predictions, finite) in predicted.items()
        }
        return Trial(point, scores, predicted[self.data.split][0])

    def _predict(self, trainer: FinetuningTrainer, part: str) -> tuple[list[Any], bool]:
        """Predictions, and whether the logits are numbers: a diverged training has none."""
        rows = self.rows[part]
        logits = trainer.predict_logits(rows)
        predictions = self.data.head_task.predict(rows, logits, self.parts[part])
        return [prediction.value for prediction in predictions], not any(np.isnan(row).any() for row in logits)


def load_head(model: EvaluatedModel, head: str, settings: Mapping[str, Any]) -> PreTrainedModel:
    """An encoder with a new head, in float32; `modernbert` checkpoints as this package's class.

    Args:
        model: any encoder.
        head: name of an Auto class, for example `AutoModelForSequenceClassification`.
        settings: configuration of the head.

    Raises:
        UsageError: the model has no such head.
    """
    import transformers

    try:
        with registered_for_modernbert():
            return getattr(transformers, head).from_pretrained(
                model.name, revision=model.requested, dtype="float32", **settings
            )
    except loading_errors() as error:
        raise UsageError(f"{model.name}: cannot be loaded as {head}. {first_line(error)}") from error


def hold_out(examples: Sequence[Any], one_in: int, key: Callable[[Any], str]) -> tuple[list[Any], list[Any]]:
    """Splits examples by a hash, independently of their order and number.

    Args:
        examples: all examples.
        one_in: about one in `one_in` examples is held out; 0 for none.
        key: hashed value; examples with equal keys stay together.

    Returns:
        The remaining and the held-out examples.
    """
    parts: tuple[list[Any], list[Any]] = ([], [])
    for example in examples:
        parts[bool(one_in) and bucket(key(example), one_in) == 0].append(example)
    return parts


def bucket(key: str, buckets: int) -> int:
    """A bucket number from 0, by SHA-256."""
    return int.from_bytes(hashlib.sha256(key.encode(errors="surrogatepass")).digest()[:8], "big") % buckets
