"""The course of an adaptation: texts, measurement of the base, training, measurement of the model.

`accelerate launch -m llm_jp_modernbert.adaptation.adapt BASE --train TEXTS --out DIR` trains with several processes.
"""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock, read_json
from llm_jp_modernbert.training.run.adaptation import RECORD, Record

from .options import AdaptOptions

if TYPE_CHECKING:
    from llm_jp_modernbert.training.finetuning.finetune.base import Base

    from .job import Job
    from .measuring import Scores

_PACKAGES = {"scipy": "scipy", "matplotlib": "matplotlib"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapted:
    """A finished adaptation: directory of the model, and content of its `adaptation.json`."""

    folder: Path
    record: Record


def adapt(options: AdaptOptions) -> Adapted:
    """Continues the pre-training of a model on the texts of a domain, and measures it before and after.

    A second call with the same options continues an interrupted adaptation, and returns a finished one as it is.

    Args:
        options: the options of the command.

    Returns:
        The directory of the model, and its record.

    Raises:
        UsageError: the texts, the base or an option is unusable, which is found before any training; or a signal
            stopped it. The message is one line.

    Example:
        >>> options = AdaptOptions("ORG/NAME", train=["manuals.jsonl"], out=Path("adapted"))
        >>> adapt(options).record["domain"]["metrics"]["pseudo_perplexity"]["change"]["value"]
        0.41
    """
    _check(options)
    from llm_jp_modernbert.training.finetuning.finetune.folder import Folder
    from llm_jp_modernbert.training.pretrain import on_main
    from llm_jp_modernbert.training.run.summary import stages_of

    from .job import OPTIONS, Job
    from .recipe import complete, given_keys, make_recipe
    from .report import end_lines
    from .texts import read_texts

    given_keys(options)
    base = _open_base(options.base)
    stages = stages_of(options.base)
    folder = Folder(options.out.resolve(), "adaptation", OPTIONS)
    recipe = make_recipe(options, folder.seed(options.seed), base.max_length, stages)
    with ExitStack() as held:
        on_main(recipe, lambda: held.enter_context(lock(options.out, "adapt")))
        if recipe.process_index == 0:
            logger.info("reading the texts")
        texts = on_main(recipe, partial(read_texts, options, recipe, base.tokenizer))
        job = Job(options, base, stages, texts, recipe, folder)
        job = replace(job, recipe=complete(recipe, options, texts, list(job.files.values())))
        is_finished = on_main(recipe, partial(folder.open, job.decisive()))
        if not is_finished:
            _run(job)
    record: Record = read_json(folder.out / RECORD, Record)
    if recipe.process_index == 0:
        if is_finished:
            logger.info("%s is already finished. These are its scores:", options.out)
        for line in end_lines(options.out, record):
            logger.info("%s", line)
    return Adapted(options.out, record)


def _check(options: AdaptOptions) -> None:
    for module, package in _PACKAGES.items():
        if find_spec(module) is None:
            raise UsageError(f"adapt needs {package}: pip install 'llm-jp-modernbert[finetune]'.")
    if not options.train:
        raise UsageError("--train: missing. Name files, directories, patterns or datasets of texts.")
    if options.replay_share is not None:
        if not 0 < options.replay_share < 1:
            raise UsageError(f"--replay-share {options.replay_share:g}: it must be above 0 and below 1.")
        if not options.replay:
            raise UsageError("--replay-share: name the general text to mix in with --replay.")
    if options.epochs is not None and not (options.epochs > 0 and math.isfinite(options.epochs)):
        raise UsageError(f"--epochs {options.epochs:g}: it must be above 0.")


def _open_base(name: str) -> Base:
    """The base, if it is a ModernBERT with a tokenizer that can mask."""
    from llm_jp_modernbert.inference.loading import OUR_MODEL_TYPES
    from llm_jp_modernbert.training.finetuning.finetune.base import open_base

    base = open_base(name)
    if base.config.model_type not in OUR_MODEL_TYPES:
        raise UsageError(
            f"{name}: a {base.config.model_type} model. adapt continues the pre-training of ModernBERT models "
            f"({' or '.join(OUR_MODEL_TYPES)})."
        )
    missing = [role for role in ("cls", "sep", "mask", "pad") if getattr(base.tokenizer, f"{role}_token_id") is None]
    if missing:
        raise UsageError(f"{name}: its tokenizer has no {', '.join(missing)} token, which masked-LM training needs.")
    return base


def _run(job: Job) -> None:
    """Measures the base, trains, and completes the directory of the model."""
    from llm_jp_modernbert.training.pretrain import on_main, pretrain
    from llm_jp_modernbert.training.run.checkpoints import checkpoints

    from .keeping import keep
    from .report import start_lines

    options, folder, recipe = job.options, job.folder, job.recipe
    is_main = recipe.process_index == 0
    for line in start_lines(job) if is_main else ():
        logger.info("%s", line)
    before: dict[str, Scores] = on_main(recipe, partial(job.measure, options.base, "base"))
    on_main(recipe, job.start)
    run = folder.seed(options.seed)
    resumes = on_main(recipe, lambda: bool(checkpoints(run)))
    trainer = pretrain(replace(recipe, resume_from_checkpoint=True) if resumes else recipe)
    if trainer.stopping and trainer.schedule.progress(trainer.state.global_step) < 1.0:
        raise UsageError(
            f"{trainer.stop.received or 'A signal'}: stopped after step {trainer.state.global_step:,}. Run the same "
            "command again to continue."
        )
    on_main(recipe, partial(keep, job, before, trainer.totals))


if __name__ == "__main__":
    from llm_jp_modernbert.core.entry_points import run_command

    run_command("adapt")
