"""Checkpoints of a run: names, seals, removal of old ones, and stop signals.

A checkpoint is written into a staging directory, sealed with the sizes and SHA-256 sums of its files, and moved into
place. Resuming uses the newest checkpoint whose files match its seal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from safetensors import SafetensorError, safe_open
from typing_extensions import TypedDict

from llm_jp_modernbert.core.checkpoint_names import CheckpointName
from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.files import read_json, replace_directory, sha256

SEAL = "seal.json"
"""The file of a checkpoint that lists all other files. It is written last."""

INDEX = "model.safetensors.index.json"

_FORWARDED_SECONDS = 1.0
_SEALING_THREADS = 16

logger = logging.getLogger(__name__)


class _Sum(TypedDict):
    size: int
    sha256: str


class _Seal(TypedDict):
    files: dict[str, _Sum]


class WeightIndex(TypedDict):
    """The file that names the file of each weight of a sharded model."""

    weight_map: dict[str, str]


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read. The message names it and the way out."""


def folder_of(run: Path, step: int) -> Path:
    """Path of a step's checkpoint, named as Trainer names it."""
    return run / f"checkpoint-{step}"


def staging(run: Path) -> Path:
    """The directory of a run in which checkpoints are assembled."""
    return run / ".saving"


def step_of(checkpoint: Path) -> int | None:
    """The step in a checkpoint's directory name; None if it is not named `checkpoint-STEP`."""
    name = CheckpointName.parse(checkpoint.name)
    return name.step if name is not None and checkpoint.name == f"checkpoint-{name.step}" else None


def checkpoints(run: Path, last: int | None = None) -> list[Path]:
    """The checkpoints of a run, sorted by step. Their seals are not checked.

    Args:
        run: run directory.
        last: number of checkpoints to return, the newest ones; None for all.

    Raises:
        UsageError: there are fewer than `last` checkpoints.
    """
    steps = {step: path for path in run.glob("checkpoint-*") if path.is_dir() and (step := step_of(path)) is not None}
    if last is not None and len(steps) < last:
        raise UsageError(f"{run} holds {len(steps)} checkpoints, not {last}. Choose a smaller number.")
    return [steps[step] for step in sorted(steps)][-(last or 0) :]


def publish(partial: Path, checkpoint: Path) -> None:
    """Seals a complete checkpoint, writes it to disk and moves it into place.

    Args:
        partial: directory of the checkpoint, on the same file system.
        checkpoint: its final path; an existing checkpoint is replaced.
    """
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    # Trainer writes a small file for each of perhaps a thousand ranks: waiting for the disk takes most of the time.
    with ThreadPoolExecutor(_SEALING_THREADS) as threads:
        sums = threads.map(_sum_and_sync, files)
        seal = {str(path.relative_to(partial)): file_sum for path, file_sum in zip(files, sums, strict=True)}
    (partial / SEAL).write_text(json.dumps({"files": seal}, indent=1) + "\n", encoding="utf-8")
    # The content must reach the disk before the new name does.
    for path in (partial / SEAL, *(path for path in partial.rglob("*") if path.is_dir()), partial):
        _sync(path)
    replace_directory(partial, checkpoint)
    _sync(checkpoint.parent)


def damage(checkpoint: Path) -> str | None:
    """Compares a checkpoint with its seal and describes the first difference; None if all files match."""
    if not (checkpoint / SEAL).is_file():
        return f"it has no {SEAL}"
    try:
        files: dict[str, _Sum] = read_json(checkpoint / SEAL, _Seal)["files"]
    except UsageError as error:
        return str(error).rstrip(".")
    for name, expected in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size:,} bytes instead of {expected['size']:,}"
        if sha256(path) != expected["sha256"]:
            return f"the SHA-256 sum of {name} differs from {SEAL}"
    return None


def unreadable_weights(folder: Path) -> str | None:
    """Names the first empty, truncated or damaged weight file of a directory; None if all are readable."""
    try:
        if (folder / INDEX).is_file():
            read_json(folder / INDEX, WeightIndex)
    except UsageError as error:
        return str(error)
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            return f"{file} is damaged or incomplete ({first_line(error)}). Copy it again."
    return None


def newest_sound(run: Path) -> Path | None:
    """The newest undamaged checkpoint of a run. Newer, damaged ones are renamed to `damaged-checkpoint-STEP`."""
    for checkpoint in reversed(checkpoints(run)):
        reason = damage(checkpoint)
        if reason is None:
            return checkpoint
        renamed = checkpoint.with_name(f"damaged-{checkpoint.name}")
        shutil.rmtree(renamed, ignore_errors=True)
        checkpoint.rename(renamed)
        logger.warning(
            "%s is damaged: %s. It was renamed to %s; the previous checkpoint is used.",
            *(checkpoint, reason, renamed.name),
        )
    return None


def rotate(run: Path, limit: int | None, newest: Path, kept: Collection[int] = ()) -> None:
    """Removes the oldest checkpoints of a run.

    Args:
        run: run directory.
        limit: maximum number of checkpoints to keep; None or 0 keeps all.
        newest: the checkpoint that was just written; it is counted, but never removed.
        kept: steps whose checkpoints are neither removed nor counted.
    """
    if not limit:
        return
    older = [path for path in checkpoints(run) if path != newest and step_of(path) not in kept]
    for checkpoint in older[: max(0, len(older) - (limit - 1))]:
        shutil.rmtree(checkpoint, ignore_errors=True)


class StopSignals:
    """Records SIGTERM and SIGUSR1, with which schedulers announce that they will end the process, and Ctrl-C.

    A second Ctrl-C raises KeyboardInterrupt.

    Attributes:
        received: name of the first signal received, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._interrupted = math.inf

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopSignals]:
        """Handles the signals inside a `with` block and restores the previous handlers after it."""
        names = [name for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
        # A background job of a script ignores Ctrl-C. A launcher in a Slurm job ignores SIGUSR1, but only for itself.
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            names.remove("SIGINT")
        try:
            before = {name: signal.signal(getattr(signal, name), self._record) for name in names}
        except ValueError:  # only the main thread receives signals
            yield self
            return
        try:
            yield self
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
        if number != signal.SIGINT:
            return
        now = time.monotonic()
        # A launcher forwards the Ctrl-C that its processes have received themselves.
        if now - self._interrupted > _FORWARDED_SECONDS:
            raise KeyboardInterrupt
        if math.isinf(self._interrupted):
            self._interrupted = now
            message = "Ctrl-C: saving after the current step. Press it again to stop without saving."
            # In a thread, because the signal may have interrupted a writer of the log.
            threading.Thread(target=logger.warning, args=(message,)).start()


def _sum_and_sync(path: Path) -> _Sum:
    file_sum: _Sum = {"size": path.stat().st_size, "sha256": sha256(path)}
    _sync(path)
    return file_sum


def _sync(path: Path) -> None:
    """Flushes a file or directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
