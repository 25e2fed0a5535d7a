"""Repositories on the Hub: retries, creation, releases in a single commit, and checkpoints stored as revisions.

`HfApi.upload_folder` may split a folder into several commits. A release must be complete or absent, so it is one
`create_commit`; large files that reached the Hub before a failed attempt are not uploaded again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from typing_extensions import TypedDict

from .checkpoint_names import CheckpointName
from .errors import UsageError
from .files import files_by_path, read_json
from .hub_errors import LONGEST_WAIT, explain, is_transient, limit_waiting, retry_after

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

logger = logging.getLogger(__name__)

MAIN = "main"
_UNFINISHED = "-unfinished-"
"""Part of the name of a branch that exists until its commit is complete."""

TRAINING = "training.json"
"""File of a release or a checkpoint that describes its training."""

Result = TypeVar("Result")


class TrainingStage(TypedDict):
    """The part of a stage in `training.json` that identifies a checkpoint."""

    stage: str
    steps: int
    tokens: float | None


class Training(TypedDict):
    """The stages in `training.json`."""

    stages: list[TrainingStage]


@dataclass(frozen=True)
class Checkpoint:
    """A training checkpoint that is stored as a revision (branch or tag) of a repository.

    Attributes:
        step, tokens: optimizer steps and training tokens in the stage; None if unknown.
    """

    revision: str
    commit: str
    stage: str
    step: int
    tokens: int | None


@dataclass(frozen=True)
class Patience:
    """Retries a call to the Hub after transient errors. huggingface_hub retries up- and downloads, but not commits.

    No request waits longer than 30 seconds for a response.
    """

    waits: tuple[float, ...] = (1.0, 5.0, 20.0)
    """Seconds to wait before each retry, unless the Hub's response says how long."""

    def __call__(self, call: Callable[[], Result]) -> Result:
        """Returns the call's result. The call must be safe to repeat."""
        for wait in self.waits:
            try:
                limit_waiting()
                return call()
            except Exception as error:
                pause = retry_after(error) or wait
                if not is_transient(error) or pause > LONGEST_WAIT:
                    raise
                logger.warning("%s Retrying in %.0f s.", explain(error), pause)
                time.sleep(pause)
        limit_waiting()
        return call()


PATIENT = Patience()
"""The default of all functions that use the Hub."""


@dataclass(frozen=True)
class Committed:
    """A commit, and whether this call made it: unchanged contents make no new commit."""

    info: CommitInfo
    is_new: bool


def check_name(repository: str, option: str = "--repo") -> None:
    """Raises `UsageError` unless an option is a valid repository name of the form ORG/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"{option} {repository}: {explain(error)}") from error
    if "/" not in repository:
        raise UsageError(f"{option} {repository}: write ORG/NAME.")


def create_repository(
    api: HfApi, repository: str, private: bool | None = None, kind: str = "model", patience: Patience = PATIENT
) -> str:
    """Creates a `model`, `dataset` or `space` repository unless it exists; a private one is private from its creation.

    Returns:
        The full name, with the user's name if `repository` has no organization.

    Raises:
        UsageError: `private` is set, but the repository exists and is public.
    """
    sdk = "gradio" if kind == "space" else None
    created = patience(
        lambda: api.create_repo(repository, repo_type=kind, private=private, exist_ok=True, space_sdk=sdk)
    )
    if private and not patience(lambda: api.repo_info(repository, repo_type=kind)).private:
        raise UsageError(f"{repository} is public, but --private is set. Make it private first, or drop the option.")
    return str(created.repo_id)


def commit_folder(
    api: HfApi,
    folder: Path,
    repository: str,
    revision: str = MAIN,
    message: str = "Release",
    kind: str = "model",
    replaced: Callable[[str], bool] = lambda path: False,
    previous: Callable[[str], Collection[str]] = lambda commit: (),
    description: str | None = None,
    create_pr: bool = False,
    patience: Patience = PATIENT,
) -> Committed:
    """Uploads the files of a folder in a single commit.

    The files to delete are determined again if another process changes the branch before the commit.

    Args:
        folder: local folder; paths in the repository are relative to it.
        repository: `ORG/NAME`, which must exist.
        revision: branch; a missing one is created from `main`, with the commit or not at all.
        message: title of the commit.
        kind: `model`, `dataset` or `space`.
        replaced: whether a path of the repository is deleted if the folder does not have it.
        previous: further paths to delete, such as those of an earlier release. Receives the parent of the new commit.
        description: body of the commit message.
        create_pr: whether the commit is proposed as a pull request.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = files_by_path(folder)
    # The Hub's own list of large files is never deleted.
    kept = {*files, ".gitattributes"}
    parents: list[str] = []

    def additions() -> list[CommitOperationAdd]:
        # New ones for each attempt: the client stores in them which files the branch has.
        return [CommitOperationAdd(path, str(file)) for path, file in files.items()]

    def commit(branch: str) -> Committed:
        # With an explicit parent, a concurrent commit is a conflict and not overwritten.
        parent = str(api.repo_info(repository, repo_type=kind, revision=branch).sha)
        parents.append(parent)
        existing = set(api.list_repo_files(repository, repo_type=kind, revision=parent)) - kept
        listed = previous(parent)
        info = api.create_commit(
            repository,
            [
                *additions(),
                *(CommitOperationDelete(path) for path in sorted(existing) if path in listed or replaced(path)),
            ],
            commit_message=message,
            commit_description=description,
            repo_type=kind,
            revision=branch,
            parent_commit=parent,
            create_pr=create_pr,
        )
        # If the response to a successful commit was lost, the retry changes nothing and returns that commit.
        return Committed(info, str(info.oid) != parents[0])

    def create(branch: str, start: str) -> bool:
        """Creates a branch; returns whether it starts at the commit `start`."""
        api.create_branch(repository, branch=branch, revision=start, repo_type=kind, exist_ok=True)
        return str(api.repo_info(repository, repo_type=kind, revision=branch).sha) == start

    if create_pr or revision == MAIN or patience(lambda: api.revision_exists(repository, revision, repo_type=kind)):
        return patience(partial(commit, revision))
    # A branch of this process only, so that it can be deleted without the commit of another process.
    own = f"{revision}{_UNFINISHED}{uuid4().hex[:8]}"
    patience(lambda: api.preupload_lfs_files(repository, additions(), repo_type=kind))
    try:
        patience(lambda: api.create_branch(repository, branch=own, repo_type=kind, exist_ok=True))
        committed = patience(partial(commit, own))
        if patience(partial(create, revision, str(committed.info.oid))):
            return committed
    finally:
        with suppress(Exception):
            patience(lambda: api.delete_branch(repository, branch=own, repo_type=kind))
    # Another process created the branch in the meantime.
    return patience(partial(commit, revision))


def checkpoints(api: HfApi, repository: str, patience: Patience = PATIENT) -> list[Checkpoint]:
    """The checkpoints among a repository's branches and tags except `main`, sorted by stage and step."""
    refs = patience(lambda: api.list_repo_refs(repository))
    named = [(ref.name, str(ref.target_commit)) for ref in (*refs.branches, *refs.tags)]
    named = [(name, commit) for name, commit in named if name != MAIN and _UNFINISHED not in name]
    parsed = [patience(partial(_checkpoint, api, repository, name, commit)) for name, commit in named]
    return sorted(
        filter(None, parsed), key=lambda checkpoint: (checkpoint.stage, checkpoint.step, checkpoint.revision)
    )


def _checkpoint(api: HfApi, repository: str, revision: str, commit: str) -> Checkpoint | None:
    """Parses training.json of a revision, or the revision's name if it has no such file."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        path = Path(api.hf_hub_download(repository, TRAINING, revision=commit))
        last = read_json(path, Training)["stages"][-1]
        tokens = None if last["tokens"] is None else int(last["tokens"])
        return Checkpoint(revision, commit, last["stage"], last["steps"], tokens)
    except RemoteEntryNotFoundError:
        name = CheckpointName.parse(revision)
        return None if name is None or not name.stage else Checkpoint(revision, commit, name.stage, name.step, None)
    except (ValueError, IndexError, OverflowError) as error:
        logger.warning("%s@%s is not listed: invalid %s (%s)", repository, revision, TRAINING, error)
        return None
