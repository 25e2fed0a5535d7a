"""A run's directory: whose it is, and where in it the run is to go on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError

from ..recipe.arguments import PretrainingArguments
from ..recipe.loading import RECIPE, differences, fingerprint, render
from .checkpoints import checkpoints, clear_partial, damage, newest_sound, step_of

RUN = "run.json"
"""The file by which a run's directory is known again; it holds what decides what is trained."""


def open_run(arguments: PretrainingArguments, warn: Callable[[str], Any]) -> Path | None:
    """Looks into a run's directory for the place to go on from, and makes it if need be; for one rank to call.

    Args:
        arguments: the recipe.
        warn: is told in one line what the user ought to know.

    Returns:
        The checkpoint to go on from, or None to begin.

    Raises:
        UsageError: the directory cannot be written, or holds something else, another run, or this one while it was
            not said to go on; or a checkpoint is named that is not there, or damaged.
    """
    run = Path(arguments.output_dir)
    _make_writable(run)
    wanted = arguments.resume_from_checkpoint
    if (run / RUN).is_file():
        clear_partial(run)
        there = checkpoints(run)
        # Where nothing was saved yet, nothing can be lost: the recipe may have been put right.
        if there or (run / "config.json").is_file():
            _check_same(run, arguments, bool(wanted))
        if not wanted and there:
            raise UsageError(
                f"output_dir: {run} holds this run up to step {step_of(there[-1])}. Go on with it by "
                "resume_from_checkpoint=true, or name another directory."
            )
    elif any(run.iterdir()):
        raise UsageError(f"output_dir: {run} is not empty, and no run of this command. Name another directory.")
    if not wanted:
        return None
    if wanted is not True and str(wanted).lower() != "true":
        return _named(Path(str(wanted)), run, arguments, warn)
    found = newest_sound(run, warn)
    if found is None:
        warn(f"{run} holds no checkpoint yet: the run begins.")
    return found


def claim_run(arguments: PretrainingArguments) -> None:
    """Writes the recipe into a run's directory, which from then on is this run's; for one rank to call."""
    run = Path(str(arguments.output_dir))
    (run / RECIPE).write_text(render(arguments), encoding="utf-8")
    (run / RUN).write_text(json.dumps(fingerprint(arguments), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _make_writable(run: Path) -> None:
    probe = run / f".writable-{os.getpid()}"
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe.write_text("x", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"output_dir: {run} cannot be written: {error.strerror or error}. Name a directory on a disk with room "
            "that you may write to."
        ) from error


def _check_same(run: Path, arguments: PretrainingArguments, resuming: bool) -> None:
    changed = differences(_saved(run), arguments)
    if changed:
        listed = "; ".join(changed[:5]) + ("; …" if changed[5:] else "")
        what = "resume_from_checkpoint: the recipe is another than" if resuming else "output_dir: another run than"
        raise UsageError(
            f"{what} that of {run} ({listed}). Go on with the recipe as it was, or name another output_dir."
        )


def _saved(run: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = json.loads((run / RUN).read_text(encoding="utf-8"))
        return saved
    except ValueError as error:
        raise UsageError(f"{run / RUN} cannot be read. Name another directory.") from error


def _named(checkpoint: Path, run: Path, arguments: PretrainingArguments, warn: Callable[[str], Any]) -> Path:
    if not checkpoint.is_dir():
        raise UsageError(f"resume_from_checkpoint: {checkpoint} is no directory. Say true for the last checkpoint.")
    reason = damage(checkpoint)
    if reason is not None:
        raise UsageError(
            f"resume_from_checkpoint: {checkpoint} is damaged: {reason}. Say true for the last sound one."
        )
    other = checkpoint.parent
    if not other.samefile(run) and (other / RUN).is_file():
        changed = differences(_saved(other), arguments)
        if changed:
            warn(f"{run} goes on from {checkpoint} by another recipe ({'; '.join(changed)}).")
    return checkpoint
