"""Checkpoints that are complete or absent, runs that know themselves again, and signals that ask for a last save.

A checkpoint is written aside, sealed with a list of its files' sizes and SHA-256 sums, and renamed into place. Whoever
resumes takes the newest that its seal confirms.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from llm_jp_modernbert.core.files import sha256

SEAL = "seal.json"
"""The file of a checkpoint that lists the others; it is written last."""

_FOLDER = re.compile(r"checkpoint-(\d+)")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message names it and the way out."""


def folder_of(run: Path, step: int) -> Path:
    """The folder of a step's checkpoint; transformers' tools know it by this name."""
    return run / f"checkpoint-{step}"


def staging(run: Path) -> Path:
    """The folder of a run in which a checkpoint is put together."""
    return run / ".saving"


def step_of(checkpoint: Path) -> int:
    """The optimizer steps that were taken when a checkpoint was written."""
    found = _FOLDER.fullmatch(checkpoint.name)
    return int(found.group(1)) if found else -1


def publish(partial: Path, checkpoint: Path) -> None:
    """Seals a folder that is written out and renames it to what it is to be.

    Args:
        partial: the folder, on the same file system.
        checkpoint: its final name; an older checkpoint of that name is replaced.
    """
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    seal = {str(path.relative_to(partial)): {"size": path.stat().st_size, "sha256": sha256(path)} for path in files}
    (partial / SEAL).write_text(json.dumps({"files": seal}, indent=1) + "\n", encoding="utf-8")
    for path in (*files, partial / SEAL, *(path for path in partial.rglob("*") if path.is_dir()), partial):
        _sync(path)
    replaced = checkpoint.with_name(f".{checkpoint.name}.replaced")
    if checkpoint.exists():
        os.replace(checkpoint, replaced)
    os.replace(partial, checkpoint)
    _sync(checkpoint.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None where its seal confirms every file."""
    try:
        files = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"it has no {SEAL}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {SEAL} cannot be read"
    for name, expected in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size:,} bytes instead of {expected['size']:,}"
        if sha256(path) != expected["sha256"]:
            return f"{name} is not what was written (other SHA-256)"
    return None


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run by step, sound or not."""
    return sorted((path for path in run.glob("checkpoint-*") if step_of(path) >= 0 and path.is_dir()), key=step_of)


def newest_sound(run: Path, warn: Callable[[str], Any]) -> Path | None:
    """The newest checkpoint whose seal holds; damaged ones are set aside under another name.

    Args:
        run: the run's directory.
        warn: is told of each damaged one.
    """
    for checkpoint in reversed(checkpoints(run)):
        reason = damage(checkpoint)
        if reason is None:
            return checkpoint
        renamed = checkpoint.with_name(f"damaged-{checkpoint.name}")
        shutil.rmtree(renamed, ignore_errors=True)
        checkpoint.rename(renamed)
        warn(f"{checkpoint} is damaged: {reason}. It is kept as {renamed.name}; the one before it is used.")
    return None


def clear_partial(run: Path) -> None:
    """Removes what an interrupted save left behind, and brings back what it was about to replace."""
    for replaced in run.glob(".checkpoint-*.replaced"):
        name = run / replaced.name.removeprefix(".").removesuffix(".replaced")
        if not name.exists():
            replaced.rename(name)
        else:
            shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(staging(run), ignore_errors=True)


def rotate(run: Path, limit: int | None, newest: Path, kept: Collection[int] = ()) -> None:
    """Removes the oldest checkpoints down to a number, but never the one that was just written.

    Args:
        run: the run's directory.
        limit: how many may stay; None or 0 for all.
        newest: the one that was just written.
        kept: steps whose checkpoints stay, and are not counted.
    """
    if not limit:
        return
    older = [one for one in checkpoints(run) if one != newest and step_of(one) not in kept]
    for checkpoint in older[: max(0, len(older) - (limit - 1))]:
        shutil.rmtree(checkpoint, ignore_errors=True)


class StopSignals:
    """Notes that SIGTERM or SIGUSR1 has arrived, which is how schedulers announce the end.

    Attributes:
        received: name of the first signal, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopSignals]:
        """Listens within a `with` block; what was done about the signals before is done again after it."""
        names = [name for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
        try:
            before = {name: signal.signal(getattr(signal, name), self._note) for name in names}
        except ValueError:  # not in the main thread, where no signal arrives
            yield self
            return
        try:
            yield self
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name


def _sync(path: Path) -> None:
    """Has the file system write a file or folder out, so that a rename never comes before its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
