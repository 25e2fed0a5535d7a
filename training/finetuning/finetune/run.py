"""The course of a fine-tuning: data, trainings, and the best model."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock

from ..data.dataset import VALIDATION
from ..options import FinetuneOptions

if TYPE_CHECKING:
    from .folder import Finetuned

_PACKAGES = {"sklearn": "scikit-learn", "scipy": "scipy", "seqeval": "seqeval", "matplotlib": "matplotlib"}

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
    from .folder import Folder, read_finished, recipe_of
    from .job import Job
    from .report import end_lines, start_lines
    from .trainings import FinetuneTrainings

    folder = Folder(options.out)
    arguments = finetuning_arguments(options, folder.unfinished, options.seed)
    base = open_base(options.base, options.tokenizer, options.max_length)
    is_main = arguments.process_index == 0
    with ExitStack() as held:
        on_main(arguments, lambda: held.enter_context(lock(options.out, "finetune")))
        dataset = load_dataset(options)
        revisions = {name: part.revision for name, part in dataset.parts.items()}
        recipe = recipe_of(options, base, arguments, dataset.columns, revisions)
        is_finished = on_main(arguments, partial(folder.open, recipe))
        if not is_finished:
            parts = dataset.parts.items()
            encode = partial(dataset.task.encode, base.tokenizer)
            inputs = {name: encode(part.examples, base.max_length) for name, part in parts}
            job = Job(options, base, dataset, inputs, folder, arguments)
            job.task.check_metric(job.metric, job.parts[VALIDATION].examples)
            for line in start_lines(job) if is_main else ():
                logger.info("%s", line)
            FinetuneTrainings(job).run()
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
