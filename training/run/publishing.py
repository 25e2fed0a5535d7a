"""Pushes training checkpoints to the Hub as revisions of one repository, while training continues.

The published files of a checkpoint are first hard-linked into the directory `unpublished` of the run, and removed from
there after the push. Nothing is lost if the checkpoint is rotated away, the Hub is unreachable or the process is
killed: a snapshot that is still there is pushed at the next save, at the end of training, or by the next process.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils.tqdm import disable_progress_bars
from transformers import TrainerCallback, TrainerControl, TrainerState

from llm_jp_modernbert.core.checkpoint_names import CheckpointName
from llm_jp_modernbert.core.files import atomic_directory, recover_replaced
from llm_jp_modernbert.core.hub import Patience, commit_folder, create_repository
from llm_jp_modernbert.core.hub_errors import explain, is_transient

from ..recipe.arguments import PretrainingArguments
from .checkpoints import checkpoints, folder_of, step_of

# Optimizer state and position in the data are not published.
_PUBLISHED = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "*tokens_map.json",
    "recipe.yaml",
    "training.json",
)
_PUSHING = ".pushing"

Prepare = Callable[[HfApi, str, Path], None]
"""Completes a snapshot before it is pushed, such as with a model card. Receives client, `ORG/NAME` and directory."""

logger = logging.getLogger(__name__)


class RevisionPublisher(TrainerCallback):
    """Pushes checkpoints to revisions `STAGE-step-STEP` of one repository, in the order of their steps.

    Pushes run in a thread and never stop training. The thread is a daemon: the threads of `HfApi.run_as_future` are
    joined at exit, so that an upload in progress would keep a process alive that a scheduler wants to end.

    Args:
        repository: `ORG/NAME`; it is created if it does not exist.
        run: run directory.
        stage: name of the training stage.
        steps: steps to publish; None for every checkpoint.
        private: whether a new repository is private; None for the account's default.
        prepare: completes each snapshot before every attempt to push it.
        api: client of the Hub.
        retry_seconds: time between attempts at the end of training, in seconds.
    """

    def __init__(
        self,
        repository: str,
        run: Path,
        stage: str,
        steps: Collection[int] | None = None,
        private: bool | None = None,
        prepare: Prepare | None = None,
        api: HfApi | None = None,
        retry_seconds: float = 15.0,
    ) -> None:
        self.repository, self.stage, self.steps = repository, stage, steps
        self.directory = run / "unpublished"
        self._private, self._prepare, self._api = private, prepare, api or HfApi()
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._ending = self._unreachable = False
        self._failed: set[str] = set()
        self._thread: threading.Thread | None = None
        recover_replaced(self.directory)
        for unfinished in self.directory.glob(".*.new"):
            shutil.rmtree(unfinished)
        self._requeue()
        # Checkpoints that an earlier process wrote, but may have been killed before submitting.
        self._unverified: set[str] = set()
        waiting = self.unpublished()
        for checkpoint in checkpoints(run):
            if self._is_wanted(step_of(checkpoint)) and self._revision(checkpoint) not in waiting:
                self._take_snapshot(checkpoint)
                self._unverified.add(self._revision(checkpoint))
        self._start()

    @classmethod
    def from_recipe(cls, recipe: PretrainingArguments, prepare: Prepare | None = None) -> RevisionPublisher | None:
        """The publisher of a recipe; None if the recipe pushes nothing."""
        if not recipe.push_to_hub:
            return None
        # Upload bars would break the progress bar of the training.
        disable_progress_bars()
        return cls(
            str(recipe.hub_model_id),
            Path(recipe.output_dir),
            recipe.stage,
            recipe.publish_steps,
            recipe.hub_private_repo,
            prepare,
            HfApi(token=recipe.hub_token),
        )

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Submits the checkpoint that was just written."""
        if self._is_wanted(state.global_step):
            self.submit(folder_of(Path(str(args.output_dir)), state.global_step))
        self._start()

    def submit(self, checkpoint: Path) -> None:
        """Takes a snapshot of a checkpoint and pushes it after all earlier ones.

        If no snapshot can be taken, such as on a full disk, a warning is logged.
        """
        self._take_snapshot(checkpoint)
        self._start()

    def _take_snapshot(self, checkpoint: Path) -> None:
        revision = self._revision(checkpoint)
        try:
            with self._lock, atomic_directory(self.directory / revision, replace=True) as folder:
                for file in (file for pattern in _PUBLISHED for file in checkpoint.glob(pattern)):
                    try:
                        os.link(file, folder / file.name)
                    except OSError:
                        shutil.copy(file, folder / file.name)
                self._unverified.discard(revision)
        except OSError as error:
            reason = error.strerror or error
            logger.warning("%s: %s cannot be pushed: %s (%s).", self.repository, revision, reason, self.directory)
        self._failed.discard(revision)

    def unpublished(self) -> list[str]:
        """Revisions that are not pushed yet, by step, including the one that is being pushed."""
        with self._lock:  # a directory that is renamed meanwhile could be missed
            names = [path.name for path in self.directory.iterdir()] if self.directory.is_dir() else []
        revisions = {
            name.removeprefix(".").removesuffix(_PUSHING)
            for name in names
            if not name.startswith(".") or name.endswith(_PUSHING)
        }
        return sorted(revisions, key=_step)

    def finish(self, seconds: float) -> list[str]:
        """Waits until everything is pushed, and ends the thread.

        Args:
            seconds: maximum waiting time in seconds.

        Returns:
            The revisions that are not pushed. A warning names them as well.
        """
        deadline = time.monotonic() + seconds
        while (self._is_running() or set(self.unpublished()) - self._failed) and time.monotonic() < deadline:
            self._start()
            assert self._thread is not None
            self._thread.join(max(0.0, deadline - time.monotonic()))
            if self._unreachable:
                time.sleep(max(0.0, min(self._retry_seconds, deadline - time.monotonic())))
        self._ending = True
        unpublished = self.unpublished()
        if unpublished:
            logger.warning(
                "Not pushed: %s. The same command with resume_from_checkpoint=true pushes them from %s.",
                *(", ".join(unpublished), self.directory),
            )
        return unpublished

    def _is_wanted(self, step: int | None) -> bool:
        return step is not None and (self.steps is None or step in self.steps)

    def _revision(self, checkpoint: Path) -> str:
        return f"{self.stage}-step-{step_of(checkpoint)}"

    def _drop_pushed(self) -> None:
        """Removes snapshots of checkpoints that an earlier process has already pushed."""
        try:
            refs = self._api.list_repo_refs(self.repository)
        except Exception as error:  # pushing an unchanged revision makes no commit
            logger.debug("%s: cannot list revisions: %s", self.repository, explain(error))
            return
        with self._lock:
            for revision in self._unverified.intersection(branch.name for branch in refs.branches):
                shutil.rmtree(self.directory / revision, ignore_errors=True)
            self._unverified.clear()

    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        """Starts the thread if it is not running."""
        if not self._is_running():
            self._thread = threading.Thread(target=self._push_all, name="publisher", daemon=True)
            self._thread.start()

    def _push_all(self) -> None:
        """Pushes all snapshots. Stops if the Hub is unreachable."""
        if self._unverified:
            self._drop_pushed()
        while not self._ending and (left := [name for name in self.unpublished() if name not in self._failed]):
            revision = left[0]
            try:
                self._push(revision)
            except Exception as error:  # no error of a push may stop training
                if is_transient(error):
                    if not self._unreachable:
                        logger.warning(
                            "%s cannot be reached: %s Training continues; pushing is retried later.",
                            *(self.repository, explain(error)),
                        )
                    self._unreachable = True
                    return
                self._failed.add(revision)
                logger.warning(
                    "%s: %s cannot be pushed: %s It stays in %s.",
                    *(self.repository, revision, explain(error), self.directory / revision),
                )
            else:
                if self._unreachable:
                    logger.info("%s is reachable again.", self.repository)
                self._unreachable = False

    def _push(self, revision: str) -> None:
        # Renamed, because the same revision may be submitted again during the push.
        folder = self.directory / f".{revision}{_PUSHING}"
        with self._lock:
            os.replace(self.directory / revision, folder)
        try:
            once = Patience(waits=())
            create_repository(self._api, self.repository, self._private, patience=once)
            if self._prepare is not None:
                self._prepare(self._api, self.repository, folder)
            # A new branch starts with the files of main; those that the checkpoint does not have are deleted.
            commit_folder(
                self._api,
                folder,
                self.repository,
                revision,
                f"Checkpoint {revision}",
                replaced=lambda path: True,
                patience=once,
            )
            shutil.rmtree(folder)
        finally:
            self._requeue()

    def _requeue(self) -> None:
        """Makes snapshots of failed or interrupted pushes available again, except where a newer one exists."""
        with self._lock:
            for folder in self.directory.glob(f".*{_PUSHING}"):
                snapshot = self.directory / folder.name.removeprefix(".").removesuffix(_PUSHING)
                if snapshot.exists():
                    shutil.rmtree(folder)
                else:
                    os.replace(folder, snapshot)


def _step(revision: str) -> tuple[int, str]:
    name = CheckpointName.parse(revision)
    return (name.step if name else 0, revision)
