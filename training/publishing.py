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
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .arguments import PretrainingArguments
from .checkpoints import folder_of, step_of

# What of a checkpoint is for others: not the optimizer's state or the place in the data.
_PUBLISHED = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "*tokens_map.json",
    "recipe.yaml",
)
_RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0)
# Answers of the Hub that another try will not change.
_FINAL = (400, 401, 403, 404)
# How long the end of a run waits for pushes that are under way, in seconds.
_PATIENCE = 600.0


class RevisionPublisher:
    """Pushes folders to revisions of one repository, one after another, in a thread of its own.

    Args:
        repository: `ORG/NAME`; made where it does not exist.
        waiting: folder in which snapshots wait for their turn.
        private: whether the repository is made private.
        say: is told in one line what went wrong and what was mended.
        api: the client; by default as the environment says.
        retry_seconds: waits between tries; the last goes on.
    """

    def __init__(
        self,
        repository: str,
        waiting: Path,
        private: bool | None = None,
        say: Callable[[str], Any] = print,
        api: HfApi | None = None,
        retry_seconds: Sequence[float] = _RETRY_SECONDS,
    ) -> None:
        self.repository = repository
        self.waiting = waiting
        self._private, self._say, self._retry = private, say, retry_seconds
        self._api = api or HfApi()
        self._changed = threading.Condition()
        self._ending = False
        self._given_up: set[str] = set()
        for unfinished in waiting.glob(".*.new"):
            shutil.rmtree(unfinished)
        self._thread = threading.Thread(target=self._push_all, name="publisher", daemon=True)
        self._thread.start()

    def submit(self, checkpoint: Path, revision: str) -> None:
        """Takes a snapshot of a checkpoint, to be pushed to a revision when its turn comes.

        Hard links make the snapshot where they can: a checkpoint's files are never changed.

        Args:
            checkpoint: its folder.
            revision: the branch, which is made where it does not exist.
        """
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
            self._changed.wait_for(lambda: not self._next(), timeout=seconds)
            self._ending = True
            self._changed.notify_all()
            return [snapshot.name for snapshot in self._snapshots()]

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
                if _is_final(error):
                    self._say(
                        f"{self.repository}: {snapshot.name} cannot be pushed ({_reason(error)}). Check the name and "
                        f"that the token may write there (hf auth login); it stays in {snapshot}."
                    )
                    with self._changed:
                        self._given_up.add(snapshot.name)
                        self._changed.notify_all()
                    continue
                if not failures:
                    self._say(
                        f"{self.repository} cannot be reached ({_reason(error)}); training goes on, pushing later."
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
        self._api.create_repo(self.repository, private=self._private, exist_ok=True)
        self._api.create_branch(self.repository, branch=revision, exist_ok=True)
        self._api.upload_folder(
            repo_id=self.repository, folder_path=snapshot, revision=revision, commit_message=f"Checkpoint {revision}"
        )
        with self._changed:
            shutil.rmtree(snapshot)
            self._changed.notify_all()


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
        cls, arguments: PretrainingArguments, waiting: Path, say: Callable[[str], Any]
    ) -> PublishCallback | None:
        """As a recipe says; None where nothing is to be pushed."""
        if not arguments.push_to_hub:
            return None
        api = HfApi(token=arguments.hub_token)
        publisher = RevisionPublisher(str(arguments.hub_model_id), waiting, arguments.hub_private_repo, say, api)
        return cls(publisher, arguments.stage, arguments.publish_steps, say)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Has a step saved that is to be pushed."""
        if self.steps is not None and state.global_step in self.steps:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Submits the checkpoint that was just written."""
        if self.steps is None or state.global_step in self.steps:
            checkpoint = folder_of(Path(str(args.output_dir)), state.global_step)
            self.publisher.submit(checkpoint, f"{self.stage}-step-{step_of(checkpoint)}")

    def finish(self) -> None:
        """Waits for pushes that are under way, and tells what is left."""
        left = self.publisher.finish(_PATIENCE)
        if left:
            self.say(
                f"not pushed: {', '.join(left)}. They wait in {self.publisher.waiting}; the same command with "
                "resume_from_checkpoint=true pushes them."
            )


def _is_final(error: Exception) -> bool:
    if isinstance(error, (HFValidationError, ValueError)) and not isinstance(error, HfHubHTTPError):
        return True
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None) in _FINAL


def _reason(error: Exception) -> str:
    """What a library says, in one line that holds no header of a request."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the Hub answers {response.status_code}"
    return type(error).__name__
