"""The job that pre-trains: a recipe in, a run's directory out.

`accelerate launch -m llm_jp_modernbert.training.pretrain RECIPE [key=value …]` runs it over several processes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from llm_jp_modernbert.core.errors import UsageError

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from .callbacks import Probe
    from .recipe.arguments import PretrainingArguments
    from .run.publishing import Prepare
    from .trainer import PretrainingTrainer


def pretrain(
    arguments: PretrainingArguments,
    console: Console | None = None,
    probes: Mapping[str, Probe] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    prepare: Prepare | None = None,
) -> PretrainingTrainer:
    """Trains a masked language model as a recipe says, from the beginning or from the last checkpoint.

    Args:
        arguments: the recipe, see `load_recipe`.
        console: where progress is shown; standard error by default.
        probes: measurements at the recipe's `probe_steps`, by name.
        callbacks: further callbacks.
        prepare: completes what is pushed to the Hub, see `publishing.Prepare`.

    Returns:
        The trainer, after training: its `state.log_history` and `totals` say what was done. Model and tokenizer stand
        in the run's directory.

    Raises:
        ValueError: whatever is wrong with data, model, tokenizer or directory, in one line.
    """
    from transformers import set_seed

    from . import assembly
    from .callbacks import ProbeCallback, ProgressCallback
    from .data.cooccurrence import read_for_counting, start_from_counts
    from .run.checkpoints import StopSignals
    from .run.publishing import PublishCallback
    from .run.run_directory import claim_run
    from .run.summary import earlier_stages
    from .trainer import PretrainingTrainer

    console = console or Console(stderr=True)
    main = arguments.process_index == 0

    def say(line: str) -> None:
        if main:
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    def warn(line: str) -> None:
        # What one rank alone has met, such as a row of its own files, is told by it.
        console.print(line if main else f"[rank {arguments.process_index}] {line}", markup=False, soft_wrap=True)

    if arguments.n_gpu > 1:
        say(f"{arguments.n_gpu} GPUs are here, but one process uses one: start with accelerate launch to use all.")
    _check_trackers(arguments)
    run = Path(arguments.output_dir).expanduser()
    arguments.output_dir = str(run)
    checkpoint = _open_run(arguments, say)
    tokenizer = assembly.make_tokenizer(arguments)
    stream = assembly.make_stream(arguments, tokenizer)
    validation = assembly.make_validation(arguments, tokenizer)
    set_seed(arguments.seed)
    model = assembly.make_model(arguments, tokenizer, checkpoint)
    if checkpoint is None and arguments.init_embeddings == "counted":
        say("counting which tokens stand beside which")
        start_from_counts(model, read_for_counting(stream.maker))
    if main:
        claim_run(arguments)

    if arguments.torch_compile:
        model.compile_layers(backend=arguments.torch_compile_backend, mode=arguments.torch_compile_mode)
        # Or Trainer would have accelerate compile the whole model, too.
        arguments.torch_compile_backend = None

    publisher = PublishCallback.from_arguments(arguments, run / "unpublished", prepare, say) if main else None
    # Trainer's own pushes leave one out while another is under way.
    arguments.push_to_hub = False
    stop = StopSignals()
    earlier = earlier_stages(arguments, checkpoint) if main else []
    trainer = PretrainingTrainer(model, arguments, stream, tokenizer, validation, [*callbacks], stop, warn, earlier)
    stream.report = trainer.report_block
    shown = ProgressCallback(console, arguments.stage, trainer.schedule.progress, trainer.totals_now)
    if main:
        trainer.add_callback(shown)
    if probes:
        trainer.add_callback(ProbeCallback(probes, arguments.probe_steps, trainer))
    if publisher is not None:
        trainer.add_callback(publisher)
    if checkpoint is not None:
        say(f"going on from {checkpoint}")
        trainer.resume(checkpoint)

    with stop.listening(), closing(shown):
        if checkpoint is not None and trainer.is_complete(checkpoint):
            say("all of its steps are done")
        else:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        step = trainer.state.global_step
        if stop.received is not None and trainer.schedule.progress(step) < 1.0:
            say(f"{stop.received}: saved after step {step}. Go on with resume_from_checkpoint=true.")
        else:
            _save_final(trainer, run)
            say(_summary(trainer, run))
        if publisher is not None:
            publisher.finish(hurry=stop.received is not None)
    return trainer


def _check_trackers(arguments: PretrainingArguments) -> None:
    """Trainer would find it out when model and data are loaded."""
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    missing = set(arguments.report_to or ()) & set(INTEGRATION_TO_CALLBACK) - set(
        get_available_reporting_integrations()
    )
    for name in sorted(missing):
        raise UsageError(f"report_to: {name} is not installed here. Try pip install {name.replace('_', '-')}.")


def _open_run(arguments: PretrainingArguments, say: Callable[[str], Any]) -> Path | None:
    """`open_run` by the first rank, for all."""
    from accelerate.utils import broadcast_object_list

    from .run.run_directory import open_run

    found: list[Any] = [None, None]
    if arguments.process_index == 0:
        try:
            found[0] = open_run(arguments, say)
        except UsageError as error:
            found[1] = error
    if arguments.world_size > 1:
        broadcast_object_list(found, from_process=0)
    if found[1] is not None:
        raise found[1]
    checkpoint: Path | None = found[0]
    return checkpoint


def _save_final(trainer: PretrainingTrainer, run: Path) -> None:
    """The trained model beside the checkpoints, file by file once all are written."""
    from .run.checkpoints import staging

    written = staging(run)
    trainer.save_model(str(written), _internal_call=True)
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(written / "trainer_state.json"))
        for file in written.iterdir():
            os.replace(file, run / file.name)
        shutil.rmtree(written)


def _summary(trainer: PretrainingTrainer, run: Path) -> str:
    totals = trainer.totals
    left_out = {
        "broken rows": totals.broken_rows,
        "blank rows": totals.blank_rows,
        "tokens behind the sequence length": totals.truncated_tokens,
        "steps with a loss that was not finite": totals.skipped_steps,
    }
    told = ", ".join(f"{count:,.0f} {what}" for what, count in left_out.items() if count)
    return (
        f"{trainer.args.stage}: {trainer.state.global_step:,} steps, {totals.tokens:,.0f} tokens, packing efficiency "
        f"{totals.packing_efficiency:.1%}{f'; left out: {told}' if told else ''}. The model is in {run}"
    )


if __name__ == "__main__":
    from llm_jp_modernbert.core.entry_points import run_command

    run_command("pretrain")
