"""Pre-training: from a recipe to a run directory with checkpoints and the trained model.

`accelerate launch -m llm_jp_modernbert.training.pretrain RECIPE [key=value …]` trains with several processes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llm_jp_modernbert.core.files import lock

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments

    from .callbacks import Probe
    from .recipe.arguments import PretrainingArguments
    from .run.checkpoints import StopSignals
    from .run.publishing import Prepare
    from .trainer import PretrainingTrainer

T = TypeVar("T")

logger = logging.getLogger(__name__)


def pretrain(
    recipe: PretrainingArguments,
    probes: Mapping[str, Probe] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    prepare: Prepare | None = None,
) -> PretrainingTrainer:
    """Pre-trains a masked language model, from the beginning or from a checkpoint.

    Args:
        recipe: the recipe, see `load_recipe`.
        probes: measurements by name, run at the recipe's `probe_steps`.
        callbacks: further callbacks of the trainer.
        prepare: completes a checkpoint before it is pushed to the Hub, see `run.publishing.Prepare`.

    Returns:
        The trainer after training. `state.log_history` and `totals` describe the run; model and tokenizer are saved
        in the run directory.

    Raises:
        ValueError: data, model, tokenizer or run directory are unusable. The message is one line.

    Example:
        >>> pretrain(load_recipe("nano", ["train_data=texts.jsonl", "tokenizer=my-tokenizer", "output_dir=runs/nano"]))
    """
    from .compiling import check_compiler
    from .recipe.validation import check_trackers

    check_trackers(recipe)
    check_compiler(recipe)
    with _opened_run(recipe) as checkpoint:
        return _train(recipe, checkpoint, probes, callbacks, prepare)


def _train(
    recipe: PretrainingArguments,
    checkpoint: Path | None,
    probes: Mapping[str, Probe] | None,
    callbacks: Sequence[TrainerCallback],
    prepare: Prepare | None,
) -> PretrainingTrainer:
    """Trains in an opened run directory."""
    from llm_jp_modernbert.core.terminal import console

    from .callbacks import ProbeCallback, ProgressCallback
    from .report import end_lines, start_lines
    from .run.checkpoints import StopSignals
    from .run.publishing import RevisionPublisher

    main = recipe.process_index == 0
    run = Path(recipe.output_dir)
    stop = StopSignals()
    trainer = _make_trainer(recipe, checkpoint, callbacks, stop)
    progress = ProgressCallback(console(), recipe.stage, trainer.schedule.progress, lambda: trainer.totals)
    if main:
        trainer.add_callback(progress)
    if probes:
        trainer.add_callback(ProbeCallback(probes, recipe.probe_steps, trainer))
    publisher = RevisionPublisher.from_recipe(recipe, prepare) if main else None
    if publisher is not None:
        trainer.add_callback(publisher)
    if checkpoint is not None:
        logger.info("resuming from %s", checkpoint)
        # Rank 0 compares the data with the checkpoint.
        on_main(recipe, partial(trainer.restore, checkpoint))
        if not main:
            trainer.restore(checkpoint)

    for line in start_lines(trainer) if main else ():
        logger.info("%s", line)
    with stop.listening(), closing(progress):
        if trainer.schedule.progress(trainer.state.global_step) < 1.0:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        step = trainer.state.global_step
        if trainer.stopping and trainer.schedule.progress(step) < 1.0:
            signal = stop.received or "signal to another rank"
            logger.info("%s: saved after step %d. Resume with resume_from_checkpoint=true.", signal, step)
        else:
            trainer.evaluate_last()
            _save_final(trainer, run)
            for line in end_lines(trainer, run):
                logger.info("%s", line)
        if publisher is not None:
            # After a signal, the scheduler ends the process within seconds.
            publisher.finish(seconds=10.0 if trainer.stopping else 600.0)
    return trainer


@contextmanager
def _opened_run(recipe: PretrainingArguments) -> Iterator[Path | None]:
    """Locks and opens the run directory on rank 0; all ranks get its checkpoint or raise its error."""
    from .run.run_directory import open_run

    run = Path(recipe.output_dir)
    with ExitStack() as held:

        def open_locked() -> Path | None:
            held.enter_context(lock(run, "pretrain"))
            return open_run(recipe)

        yield on_main(recipe, open_locked)


def on_main(arguments: TrainingArguments, job: Callable[[], T]) -> T:
    """Runs a job on rank 0; all ranks return its result or raise its error."""
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None, None]
    if arguments.process_index == 0:
        try:
            outcome[0] = job()
        except (ValueError, OSError) as error:
            outcome[1] = error
    if arguments.world_size > 1:
        broadcast_object_list(outcome, from_process=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def _make_trainer(
    recipe: PretrainingArguments,
    checkpoint: Path | None,
    callbacks: Sequence[TrainerCallback],
    stop: StopSignals,
) -> PretrainingTrainer:
    """Loads data, tokenizer and model. The run directory is claimed only if all of them are usable."""
    import torch
    from transformers import set_seed

    from . import assembly
    from .data.cooccurrence import read_for_counting, start_from_counts
    from .run.run_directory import claim_run
    from .run.summary import earlier_stages
    from .trainer import PretrainingTrainer

    main = recipe.process_index == 0
    if recipe.world_size == 1 and not recipe.use_cpu and torch.cuda.device_count() > 1:
        logger.info("This process uses one of %d GPUs: accelerate launch uses all.", torch.cuda.device_count())
    tokenizer = assembly.make_tokenizer(recipe)
    stream = assembly.make_stream(recipe, tokenizer)
    validation = assembly.make_validation(recipe, tokenizer)
    set_seed(recipe.seed)
    model = assembly.make_model(recipe, tokenizer, checkpoint)
    assembly.set_up_layers(model, recipe)
    if checkpoint is None and recipe.init_embeddings == "counted":
        logger.info("counting co-occurrences of tokens")
        start_from_counts(model, read_for_counting(stream.maker))
    if main:
        claim_run(recipe)
    stages = earlier_stages(recipe, checkpoint) if main else []
    return PretrainingTrainer(model, recipe, stream, tokenizer, validation, callbacks, stop, stages)


def _save_final(trainer: PretrainingTrainer, run: Path) -> None:
    """Saves the trained model into the run directory. Each file is replaced atomically."""
    from .run.checkpoints import staging

    folder = staging(run)
    with trainer.checkpoints.cleanup():
        trainer.save_model(str(folder))
        if not trainer.is_world_process_zero():
            return
        trainer.checkpoints.describe(folder, trainer.state, trainer.totals)
        trainer.state.save_to_json(str(folder / "trainer_state.json"))
        for file in folder.iterdir():
            os.replace(file, run / file.name)


if __name__ == "__main__":
    from llm_jp_modernbert.core.entry_points import run_command

    run_command("pretrain")
