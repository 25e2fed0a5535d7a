"""Repositories on the Hub: retries, creation, releases in a single commit, and checkpoints stored as revisions.

`HfApi.upload_folder` may split a folder into several commits. A release must be complete or absent, so it is one
`create_commit`; large files that reached the Hub before a failed attempt are not uploaded again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .checkpoint_names import CheckpointName
from .errors import UsageError
from .files import files_by_path
from .hub_errors import LONGEST_WAIT, explain, is_transient, limit_waiting, retry_after

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

logger = logging.getLogger(__name__)

MAIN = "main"
TRAINING = "training.json"
"""File of a release or a checkpoint that describes its training."""

Result = TypeVar("Result")


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

    No request waits longer than a minute for a response.
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


def check_name(repository: str) -> None:
    """Raises `UsageError` unless `--repo` is a valid repository name of the form ORG/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"--repo {repository}: {explain(error)}") from error
    if "/" not in repository:
        raise UsageError(f"--repo {repository}: write ORG/NAME.")


def create_repository(
    api: HfApi, repository: str, private: bool | None = None, kind: str = "model", patience: Patience = PATIENT
) -> str:
    """Creates a `model` or `dataset` repository unless it exists; a private one is private from its creation on.

    Returns:
        The full name, with the user's name if `repository` has no organization.

    Raises:
        UsageError: `private` is set, but the repository exists and is public.
    """
    created = patience(lambda: api.create_repo(repository, repo_type=kind, private=private, exist_ok=True))
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
    description: str | None = None,
    create_pr: bool = False,
    patience: Patience = PATIENT,
) -> Committed:
    """Uploads the files of a folder in a single commit.

    Args:
        folder: local folder; paths in the repository are relative to it.
        repository: `ORG/NAME`, which must exist.
        revision: branch; a missing one is created from `main`, and deleted if the commit fails.
        message: title of the commit.
        kind: `model` or `dataset`.
        replaced: whether a path of the repository is deleted if the folder does not have it.
        description: body of the commit message.
        create_pr: whether the commit is proposed as a pull request.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = files_by_path(folder)
    # The Hub's own list of large files is never deleted.
    kept = {*files, ".gitattributes"}
    parents: list[str] = []

    def commit() -> Committed:
        # With an explicit parent, a concurrent commit is a conflict and not overwritten.
        parent = str(api.repo_info(repository, repo_type=kind, revision=revision).sha)
        parents.append(parent)
        existing = api.list_repo_files(repository, repo_type=kind, revision=parent)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(path, str(file)) for path, file in files.items()),
            *(CommitOperationDelete(path) for path in existing if path not in kept and replaced(path)),
        ]
        info = api.create_commit(
            repository,
            operations,
            commit_message=message,
            commit_description=description,
            repo_type=kind,
            revision=revision,
            parent_commit=parent,
            create_pr=create_pr,
        )
        # If the response to a successful commit was lost, the retry changes nothing and returns that commit.
        return Committed(info, str(info.oid) != parents[0])

    is_new = revision != MAIN and not patience(lambda: api.revision_exists(repository, revision, repo_type=kind))
    if is_new:
        patience(lambda: api.create_branch(repository, branch=revision, repo_type=kind, exist_ok=True))
    try:
        return patience(commit)
    except BaseException:
        if is_new:
            # If the Hub is unreachable, the branch stays a copy of main; the next attempt uses it.
            with suppress(Exception):
                api.delete_branch(repository, branch=revision, repo_type=kind)
        raise


def checkpoints(api: HfApi, repository: str, patience: Patience = PATIENT) -> list[Checkpoint]:
    """The checkpoints among a repository's branches and tags except `main`, sorted by stage and step."""
    refs = patience(lambda: api.list_repo_refs(repository))
    named = [(ref.name, str(ref.target_commit)) for ref in (*refs.branches, *refs.tags) if ref.name != MAIN]
    parsed = [patience(partial(_checkpoint, api, repository, name, commit)) for name, commit in named]
    return sorted(
        filter(None, parsed), key=lambda checkpoint: (checkpoint.stage, checkpoint.step, checkpoint.revision)
    )


def _checkpoint(api: HfApi, repository: str, revision: str, commit: str) -> Checkpoint | None:
    """Parses training.json of a revision, or the revision's name if it has no such file."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = api.hf_hub_download(repository, TRAINING, revision=commit)
        last = json.loads(Path(path).read_text(encoding="utf-8"))["stages"][-1]
        return Checkpoint(revision, commit, str(last["stage"]), int(last["steps"]), int(last["tokens"]))
    except EntryNotFoundError:
        name = CheckpointName.parse(revision)
        return None if name is None or not name.stage else Checkpoint(revision, commit, name.stage, name.step, None)
    except (ValueError, KeyError, TypeError, IndexError):
        return None
