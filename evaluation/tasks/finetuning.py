"""What all tasks share that fine-tune a model: splits, the grid, training by `transformers.Trainer`, selection.

Paper's protocol: 36 points (6 learning rates × 6 numbers of epochs, batch 32, 512 tokens, linear decay), and the best
score on the validation split is reported, as in the paper; such figures are labelled `selected_on: validation`.
Improved: the six points of JGLUE's own recipe (warm-up over 10 %), chosen on a tenth of the training examples that is
held out. The figures of that tenth (`dev`) and of the public validation split are reported apart.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.auto import register_for_modernbert, unregister_for_modernbert
from llm_jp_modernbert.inference.loading import loading_errors

from ..data.labelled import Labelled
from ..report.results import Measurement
from .grid import Point, Tried, best, points, search
from .ranks import rank
from .task import Data, Options, Outcome, Progress, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..encoders.models import EvaluatedModel

DEV = "dev"

_PAPER_GRID = (5e-6, 1e-5, 2e-5, 3e-5, 5e-5, 1e-4), (1, 2, 3, 4, 5, 10)
_OFFICIAL_GRID = (5e-5, 3e-5, 2e-5), (3, 4)

Kind = TypeVar("Kind", bound="FineTuning")


@dataclass(frozen=True)
class Splits(Data):
    """Examples to report on, and those to learn and to choose from.

    Attributes:
        train: to learn from.
        dev: to choose a grid point by; empty where the reported split itself does so.
        labels: where the data say which there are.
    """

    train: Sequence[Any] = field(default=(), repr=False)
    dev: Sequence[Any] = field(default=(), repr=False)
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One input of the model.

    Attributes:
        inputs: ids, and the label where there is one, as the collator takes them.
        example: the place of the example that it is of.
        offsets: where each token begins and ends in the example's text; None for those that are not of it.
    """

    inputs: dict[str, Any]
    example: int
    offsets: tuple[tuple[int, int] | None, ...] = ()


@dataclass(frozen=True)
class FineTuning(Task):
    """Attributes are the settings.

    Attributes:
        learning_rates: of the grid.
        epochs: of the grid.
        batch_size: examples of a step.
        max_length: tokens of an input at most.
        warmup: share of the steps in which the learning rate rises; it then falls linearly to 0.
        held_out: part of the training examples that is held out to choose by: one in so many; 0 for none.
    """

    learning_rates: tuple[float, ...] = _OFFICIAL_GRID[0]
    epochs: tuple[int, ...] = _OFFICIAL_GRID[1]
    batch_size: int = 32
    max_length: int = 512
    warmup: float = 0.1
    held_out: int = 10

    shared: ClassVar[bool] = True

    head: ClassVar[str]
    """The Auto class of the model."""

    metric: ClassVar[str]
    """The figure that a grid point is chosen by."""

    @classmethod
    def for_options(cls: type[Kind], options: Options) -> Kind:
        """With the protocol's settings."""
        paper = options.protocol == "paper"
        rates, epochs = _PAPER_GRID if paper else _OFFICIAL_GRID
        task = cls(options, learning_rates=options.learning_rates or rates, epochs=options.epochs or epochs)
        return replace(task, max_length=512, warmup=0.0, held_out=0) if paper else task

    @abstractmethod
    def load(self) -> Splits:
        """Reads the data; errors as of `Task.load`."""

    @abstractmethod
    def rows(
        self, tokenizer: PreTrainedTokenizerBase, data: Splits, examples: Sequence[Any], length: int
    ) -> list[Row]:
        """The inputs of some of the data's examples, each of at most so many tokens."""

    @abstractmethod
    def predictions(self, rows: Sequence[Row], logits: Any, data: Splits, examples: Sequence[Any]) -> list[Any]:
        """What the model says of each example, as plain values.

        Args:
            rows: the inputs.
            logits: the model's, of the rows: an array, or a tuple of arrays, padded to the longest input.
            data: all of it.
            examples: what the rows are of.
        """

    @abstractmethod
    def scores(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float | None]:
        """Figures by their names; None where one is undefined."""

    @abstractmethod
    def gold(self, example: Any) -> Any:
        """The right answer, as a plain value."""

    def head_settings(self, data: Splits) -> dict[str, Any]:
        """What the model's configuration says of the head, such as its labels."""
        return {}

    def baselines(self, examples: Sequence[Any]) -> dict[str, float]:
        """What the simplest guess reaches, by the names of the figures."""
        return {}

    def diagnostics(self, tokenizer: PreTrainedTokenizerBase, data: Splits, length: int) -> dict[str, float | None]:
        """Further figures of the reported split, which do not depend on the training."""
        return {}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Makes a batch of inputs."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def measure(self, model: EvaluatedModel, data: Data, progress: Progress) -> Outcome:
        """Trains every grid point, chooses one, and reports it."""
        assert isinstance(data, Splits)
        length = min(self.max_length, model.max_length)
        parts: dict[str, Sequence[Any]] = {data.split: data.examples}
        if data.dev:
            parts[DEV] = data.dev
        training = _Training(self, model, data, length, parts)
        grid = points(self.learning_rates, self.epochs)
        kept = self.options.work_dir
        with TemporaryDirectory() if kept is None else nullcontext(str(kept)) as folder:
            tried = search(grid, Path(folder), training.run, progress, first=not rank())
        if rank():
            return Outcome([])
        selected_on = DEV if data.dev else data.split
        chosen = best(tried, selected_on, self.metric)
        if all(value is None for part in chosen.scores.values() for value in part.values()):
            raise UsageError(
                f"{self.name}: no training of {model.name} gave a figure that is a number. Its weights are broken, or "
                "every learning rate is too high: try another by --learning-rate."
            )
        official = not data.train_files
        measurements = [
            Measurement(
                metric,
                value,
                examples=len(examples),
                baseline=self.baselines(examples).get(metric),
                split=part,
                scale=100,
                selected_on=selected_on,
                learning_rate=chosen.point.learning_rate,
                epochs=chosen.point.epochs,
                train_examples=len(data.train),
                grid=[{**asdict(result.point), "value": result.scores[part][metric]} for result in tried],
                averaged_with=self.averaged_with if official and (metric, part) == (self.metric, data.split) else (),
            )
            for part, examples in parts.items()
            for metric, value in chosen.scores[part].items()
        ]
        measurements += [
            Measurement(metric, value, examples=len(data.examples), split=data.split, scale=100)
            for metric, value in self.diagnostics(model.tokenizer, data, length).items()
        ]
        instances = [
            {"example": number, "prediction": prediction, "label": self.gold(example)}
            for number, (example, prediction) in enumerate(zip(data.examples, chosen.predictions, strict=True))
        ]
        return Outcome(measurements, instances)


class _Training:
    """Trains and scores grid points of one task and one model; the inputs are made once."""

    def __init__(
        self, task: FineTuning, model: EvaluatedModel, data: Splits, length: int, parts: Mapping[str, Sequence[Any]]
    ) -> None:
        self._task = task
        self._model = model
        self._data = data
        self._parts = parts
        self._length = length
        self._rows: dict[str, list[Row]] = {}

    def run(self, point: Point, progress: Progress) -> Tried:
        """Trains from the pre-trained weights, and scores every part."""
        import torch
        from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

        task = self._task
        if not self._rows:
            everything = {"train": self._data.train, **self._parts}
            for part, examples in everything.items():
                self._rows[part] = task.rows(self._model.tokenizer, self._data, examples, self._length)
        set_seed(task.options.seed)
        with TemporaryDirectory() as nothing_is_kept:
            arguments = TrainingArguments(
                output_dir=nothing_is_kept,
                per_device_train_batch_size=task.batch_size,
                per_device_eval_batch_size=task.batch_size,
                learning_rate=point.learning_rate,
                num_train_epochs=point.epochs,
                warmup_steps=task.warmup,
                seed=task.options.seed,
                bf16=self._model.dtype == "bfloat16",
                fp16=self._model.dtype == "float16",
                use_cpu=self._model.which.device == "cpu",
                dataloader_pin_memory=torch.cuda.is_available(),
                remove_unused_columns=False,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            if arguments.n_gpu > 1:
                # Batches are for one GPU; a Trainer alone would spread them over all that it sees.
                arguments._n_gpu = 1
            trainer = Trainer(
                model=load_head(self._model, task.head, task.head_settings(self._data)),
                args=arguments,
                data_collator=task.collator(self._model.tokenizer),
                train_dataset=_inputs(self._rows["train"]),
                callbacks=[_told(progress)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            predicted = {part: self._predict(trainer, part) for part in self._parts}
        scores = {
            part: {
                name: _finite(value) if sound else None
                for name, value in task.scores(self._parts[part], found).items()
            }
            for part, (found, sound) in predicted.items()
        }
        return Tried(point, scores, predicted[self._data.split][0])

    def _predict(self, trainer: Any, part: str) -> tuple[list[Any], bool]:
        """What is found for each example, and whether it is any answer: a training that diverged gives none."""
        # The longest first, so that a batch holds inputs of about one length.
        rows = sorted(self._rows[part], key=lambda row: -_length(row))
        logits = trainer.predict(_inputs(rows)).predictions
        sound = not any(np.isnan(one).any() for one in (logits if isinstance(logits, tuple) else (logits,)))
        return self._task.predictions(rows, logits, self._data, self._parts[part]), sound


def load_head(model: EvaluatedModel, head: str, settings: Mapping[str, Any]) -> PreTrainedModel:
    """An encoder with a new head, in float32; `modernbert` checkpoints as this package's class.

    Args:
        model: any encoder.
        head: name of an Auto class, such as `AutoModelForSequenceClassification`.
        settings: of the head, for the configuration.

    Raises:
        UsageError: it has no such head.
    """
    import transformers

    register_for_modernbert()
    try:
        return getattr(transformers, head).from_pretrained(
            model.name, revision=model.requested, dtype="float32", **settings
        )
    except loading_errors() as error:
        raise UsageError(f"{model.name}: cannot be loaded as {head}. {str(error).splitlines()[0]}") from error
    finally:
        unregister_for_modernbert()


def splits(
    task: FineTuning,
    reported: Labelled,
    train: Labelled,
    example: Callable[[str, dict[str, Any]], Any],
    key: Callable[[Any], str],
) -> Splits:
    """Public splits as examples, with what is held out of the training split.

    Args:
        task: says how much is held out, and how many examples are taken at most.
        reported: the validation split.
        train: the training split.
        example: makes an example of a row and its place.
        key: of an example; those of one key stay together.

    Raises:
        UsageError: a row is not what it ought to be, or there are too few.
    """
    learned, dev = hold_out([example(*row) for row in train.rows], task.held_out, key)
    if not learned or (task.held_out and not dev):
        raise UsageError(f"{train.name}: {len(train.rows)} training examples are too few to learn and to choose from.")
    limit = task.options.limit
    return Splits(
        train.name,
        f"{reported.revision}+{train.revision}",
        "validation",
        [example(*row) for row in reported.rows][:limit],
        train=learned[:limit],
        dev=dev[:limit],
        train_files=train.train_files,
    )


def hold_out(examples: Sequence[Any], one_in: int, key: Callable[[Any], str]) -> tuple[list[Any], list[Any]]:
    """Parts examples in two by a hash, so that neither order nor number of the others matters.

    Args:
        examples: all of them.
        one_in: one of so many is held out, about; 0 for none.
        key: what is hashed; examples of one key stay together.

    Returns:
        Those that stay, and those that are held out.
    """
    if not one_in:
        return list(examples), []
    held = [bucket(key(example), one_in) == 0 for example in examples]
    return (
        [example for example, out in zip(examples, held, strict=True) if not out],
        [example for example, out in zip(examples, held, strict=True) if out],
    )


def bucket(key: str, buckets: int) -> int:
    """One of so many buckets, by SHA-256."""
    return int.from_bytes(hashlib.sha256(key.encode(errors="surrogatepass")).digest()[:8], "big") % buckets


def majority_share(labels: Sequence[Any]) -> float:
    """The share of the most frequent label."""
    return Counter(labels).most_common(1)[0][1] / len(labels)


def _inputs(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [row.inputs for row in rows]


def _length(row: Row) -> int:
    ids = row.inputs["input_ids"]
    return max(map(len, ids)) if isinstance(ids[0], list) else len(ids)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(np.float64(value))


def _told(progress: Progress) -> Any:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class Told(TrainerCallback):
        """Tells the share of the steps that are done."""

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            progress(state.global_step / state.max_steps)

    return Told()
