"""Training checkpoints as revisions of one repository of the Hub, pushed while training goes on.

What is to be pushed is copied aside first, into a folder that outlives the process: the checkpoint may be rotated
away, the Hub may be out of reach, and the run may be killed. Whatever waits there is pushed in its order, by this
process or the next.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils.tqdm import disable_progress_bars
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llm_jp_modernbert.core.hub import Patience, commit_folder, create_repository
from llm_jp_modernbert.core.hub_errors import explain, is_transient

from ..recipe.arguments import PretrainingArguments
from .checkpoints import folder_of, step_of

# What of a checkpoint is for others: not the optimizer's state or the place in the data.
_PUBLISHED = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "*tokens_map.json",
    "recipe.yaml",
    "training.json",
)

Prepare = Callable[[HfApi, str, Path], None]
"""Makes of a snapshot what its repository, named `ORG/NAME`, is to hold, such as one with a card."""

_RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0)
# How long the end of a run waits for pushes that are under way, in seconds; and after a signal.
_PATIENCE, _HURRY = 600.0, 10.0


class RevisionPublisher:
    """Pushes folders to revisions of one repository, one after another, in a thread of its own.

    Args:
        repository: `ORG/NAME`; made where it does not exist.
        waiting: folder in which snapshots wait for their turn.
        private: whether the repository is made private.
        prepare: is called with each snapshot before it is pushed, and again where a push is tried again.
        say: is told in one line what went wrong and what was mended.
        api: the client; by default as the environment says.
        retry_seconds: waits between tries, the last of which goes on; by default from seconds to ten minutes.
    """

    def __init__(
        self,
        repository: str,
        waiting: Path,
        private: bool | None = None,
        prepare: Prepare | None = None,
        say: Callable[[str], Any] = print,
        api: HfApi | None = None,
        retry_seconds: Sequence[float] | None = None,
    ) -> None:
        self.repository = repository
        self.waiting = waiting
        self._private, self._prepare, self._say = private, prepare, say
        self._retry = retry_seconds or _RETRY_SECONDS
        self._api = api or HfApi()
        self._changed = threading.Condition()
        self._ending = False
        self._given_up: set[str] = set()
        self._pushing: str | None = None
        for unfinished in waiting.glob(".*.new"):
            shutil.rmtree(unfinished)
        for interrupted in waiting.glob(".*.pushing"):
            self._put_back(interrupted)
        self._thread = threading.Thread(target=self._push_all, name="publisher", daemon=True)
        self._thread.start()

    def submit(self, checkpoint: Path, revision: str) -> None:
        """Takes a snapshot of a checkpoint, to be pushed to a revision when its turn comes.

        Hard links make the snapshot where they can: a checkpoint's files are never changed. Where none can be made,
        such as on a full disk, this is told, and training goes on.

        Args:
            checkpoint: its folder.
            revision: the branch, which is made where it does not exist.
        """
        try:
            self._take(checkpoint, revision)
        except OSError as error:
            self._say(f"{self.repository}: {revision} cannot be pushed: {error.strerror or error} ({self.waiting}).")

    def _take(self, checkpoint: Path, revision: str) -> None:
        aside = self.waiting / f".{revision}.new"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for pattern in _PUBLISHED:
            for file in checkpoint.glob(pattern):
                try:
                    os.link(file, aside / file.name)
                except OSError:
                    shutil.copy(file, aside / file.name)
        with self._changed:
            snapshot = self.waiting / revision
            shutil.rmtree(snapshot, ignore_errors=True)
            os.replace(aside, snapshot)
            self._given_up.discard(revision)
            self._changed.notify_all()

    def finish(self, seconds: float) -> list[str]:
        """Waits for what is left to push, and ends the thread.

        Args:
            seconds: to wait at most.

        Returns:
            The revisions that are still waiting.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._next() and self._pushing is None, timeout=seconds)
            self._ending = True
            self._changed.notify_all()
            left = [snapshot.name for snapshot in self._snapshots()]
            return [self._pushing, *left] if self._pushing is not None else left

    def _snapshots(self) -> list[Path]:
        """What waits, the oldest first."""
        found = (path for path in self.waiting.glob("*") if path.is_dir() and not path.name.startswith("."))
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _next(self) -> Path | None:
        return next((snapshot for snapshot in self._snapshots() if snapshot.name not in self._given_up), None)

    def _push_all(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending or self._next() is not None)
                snapshot = self._next()
                if self._ending or snapshot is None:
                    return
            try:
                self._push(snapshot)
            except Exception as error:  # nothing that happens here may end the training
                if not is_transient(error):
                    self._say(
                        f"{self.repository}: {snapshot.name} cannot be pushed: {explain(error)} "
                        f"It stays in {snapshot}."
                    )
                    with self._changed:
                        self._given_up.add(snapshot.name)
                        self._changed.notify_all()
                    continue
                if not failures:
                    self._say(
                        f"{self.repository} cannot be reached: {explain(error)} Training goes on, pushing later."
                    )
                wait = self._retry[min(failures, len(self._retry) - 1)]
                failures += 1
                with self._changed:
                    self._changed.wait_for(lambda: self._ending, timeout=wait)
                continue
            if failures:
                self._say(f"{self.repository} is reached again.")
            failures = 0

    def _push(self, snapshot: Path) -> None:
        revision = snapshot.name
        # Under another name: the same revision may be submitted again in the meantime.
        taken = self.waiting / f".{revision}.pushing"
        with self._changed:
            os.replace(snapshot, taken)
            self._pushing = revision
        try:
            # The waits between tries are this thread's own.
            once = Patience(waits=())
            create_repository(self._api, self.repository, self._private, patience=once)
            if self._prepare is not None:
                self._prepare(self._api, self.repository, taken)
            title = f"Checkpoint {revision}"
            # The branch begins as main is: what a release has and a checkpoint has not is none of it.
            commit_folder(
                self._api, taken, self.repository, revision, title, replaced=lambda path: True, patience=once
            )
            shutil.rmtree(taken)
        finally:
            with self._changed:
                self._pushing = None
                if taken.exists():
                    self._put_back(taken)
                self._changed.notify_all()

    def _put_back(self, taken: Path) -> None:
        """Lets a snapshot wait again, unless a newer one of its revision does."""
        snapshot = self.waiting / taken.name.removeprefix(".").removesuffix(".pushing")
        if snapshot.exists():
            shutil.rmtree(taken)
        else:
            os.replace(taken, snapshot)


class PublishCallback(TrainerCallback):
    """Hands saved checkpoints to a publisher, as revisions `STAGE-step-STEP`.

    Args:
        publisher: pushes them.
        stage: name of the stage.
        steps: of which steps; None for all that are saved.
        say: is told in one line what is not pushed at the end.
    """

    def __init__(
        self, publisher: RevisionPublisher, stage: str, steps: Collection[int] | None, say: Callable[[str], Any]
    ) -> None:
        self.publisher = publisher
        self.stage = stage
        self.steps = steps
        self.say = say

    @classmethod
    def from_arguments(
        cls, arguments: PretrainingArguments, waiting: Path, prepare: Prepare | None, say: Callable[[str], Any]
    ) -> PublishCallback | None:
        """As a recipe says; None where nothing is to be pushed."""
        if not arguments.push_to_hub:
            return None
        # The bar of an upload would run through that of the training.
        disable_progress_bars()
        api = HfApi(token=arguments.hub_token)
        publisher = RevisionPublisher(
            str(arguments.hub_model_id), waiting, arguments.hub_private_repo, prepare, say, api
        )
        return cls(publisher, arguments.stage, arguments.publish_steps, say)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Submits the checkpoint that was just written."""
        if self.steps is None or state.global_step in self.steps:
            checkpoint = folder_of(Path(str(args.output_dir)), state.global_step)
            self.publisher.submit(checkpoint, f"{self.stage}-step-{step_of(checkpoint)}")

    def finish(self, hurry: bool) -> None:
        """Waits for pushes that are under way, and tells what is left.

        Args:
            hurry: whether the process is about to be ended: there is time for seconds only.
        """
        left = self.publisher.finish(_HURRY if hurry else _PATIENCE)
        if left:
            self.say(
                f"not pushed: {', '.join(left)}. They wait in {self.publisher.waiting}; the same command with "
                "resume_from_checkpoint=true pushes them."
            )
