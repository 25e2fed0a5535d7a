"""The run directory: which run it belongs to, and where that run resumes."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json, recover_replaced, write_whole

from ..recipe.arguments import PretrainingArguments
from ..recipe.loading import RECIPE, differences, fingerprint, is_rendered, load_recipe, render
from .checkpoints import checkpoints, damage, newest_sound, staging, step_of

RUN = "run.json"
"""The file that identifies a run: all recipe keys that affect the trained weights."""

logger = logging.getLogger(__name__)


def open_run(recipe: PretrainingArguments) -> Path | None:
    """Creates or checks the run directory and finds the checkpoint to resume from. Only the lock's holder may call it.

    Returns:
        The checkpoint, or None to start from the beginning.

    Raises:
        UsageError: the directory is not writable, holds other files or a different run, or holds this run but the
            recipe does not resume it; or the requested checkpoint is missing or damaged.
    """
    run = Path(recipe.output_dir)
    make_writable(run)
    resume = recipe.resume_from_checkpoint
    existing = [] if (run / RUN).is_file() else [path for path in checkpoints(run) if (path / RECIPE).is_file()]
    if (run / RUN).is_file() or existing:
        recover_replaced(run)
        shutil.rmtree(staging(run), ignore_errors=True)
        existing = checkpoints(run)
        # Without checkpoints nothing can be lost, so the recipe may be corrected.
        if existing or (run / "config.json").is_file():
            changed = differences(_fingerprint_of(run), recipe)
            if changed:
                listed = "; ".join(changed[:5]) + ("; …" if changed[5:] else "")
                problem = (
                    f"resume_from_checkpoint: the recipe differs from that of {run}"
                    if resume
                    else f"output_dir: {run} already contains a different run"
                )
                raise UsageError(f"{problem} ({listed}). Use the same recipe, or a different output_dir.")
        if not resume and existing:
            raise UsageError(
                f"output_dir: {run} holds this run up to step {step_of(existing[-1])}. Resume it with "
                "resume_from_checkpoint=true, or use a different directory."
            )
    elif not _is_vacant(run):
        raise UsageError(f"output_dir: {run} is not empty and not a run directory. Use a different directory.")
    if not resume:
        return None
    if str(resume).lower() != "true":
        return _requested(Path(str(resume)), run, recipe)
    checkpoint = newest_sound(run)
    if checkpoint is None:
        logger.warning("%s holds no checkpoint yet: training starts from the beginning.", run)
    return checkpoint


def claim_run(recipe: PretrainingArguments) -> None:
    """Writes the recipe and its fingerprint into the run directory. Only one rank must call it."""
    run = Path(recipe.output_dir)
    # run.json first: it marks the directory as a run if the process is killed in between.
    write_whole(run / RUN, json.dumps(fingerprint(recipe), ensure_ascii=False, indent=1) + "\n")
    write_whole(run / RECIPE, render(recipe))


def make_writable(run: Path) -> None:
    """Creates the run directory and checks that files can be written to it; raises `UsageError` if not."""
    probe = run / f".writable-{os.getpid()}"
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe.write_text("x", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"output_dir: {run} cannot be written: {error.strerror or error}. Use a directory that you may write to, "
            "on a disk with free space."
        ) from error


def _is_vacant(run: Path) -> bool:
    """Whether a directory holds nothing except hidden files and what a run killed at its beginning leaves."""
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    return not names or (names == {RECIPE} and is_rendered(run / RECIPE))


def _fingerprint_of(run: Path) -> dict[str, Any]:
    """The fingerprint in run.json; if a kill has left none or a part of it, that of the newest checkpoint's recipe."""
    file = run / RUN
    content = file.read_bytes().strip(b"\0\n ") if file.is_file() else b""
    recipes = [path / RECIPE for path in reversed(checkpoints(run)) if (path / RECIPE).is_file()]
    if recipes and (not content or (content.startswith(b"{") and not content.endswith(b"}"))):
        logger.warning("%s is missing or incomplete: the recipe of %s is used instead.", file, recipes[0].parent)
        saved: dict[str, Any] = fingerprint(load_recipe(str(recipes[0])))
        # The number of ranks is unknown.
        del saved["rows_per_step"]
        return saved
    try:
        saved = read_json(file, dict[str, Any])
    except UsageError as error:
        raise UsageError(f"{error} Remove the file, or use a different directory.") from error
    return saved


def _requested(checkpoint: Path, run: Path, recipe: PretrainingArguments) -> Path:
    """Checks the checkpoint that the recipe names; it may belong to a different run."""
    if not checkpoint.is_dir():
        raise UsageError(
            f"resume_from_checkpoint: {checkpoint} is not a directory. Use true for the latest checkpoint."
        )
    reason = damage(checkpoint)
    if reason is not None:
        raise UsageError(
            f"resume_from_checkpoint: {checkpoint} is damaged: {reason}. Use true for the latest undamaged one."
        )
    origin = checkpoint.parent
    if not origin.samefile(run) and (origin / RUN).is_file():
        changed = differences(_fingerprint_of(origin), recipe)
        if changed:
            logger.warning("%s resumes from %s with a different recipe (%s).", *(run, checkpoint, "; ".join(changed)))
    return checkpoint
