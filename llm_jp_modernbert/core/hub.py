"""The Hub as this project uses it: one commit for each release, revisions, patience, and errors in one line.

huggingface_hub's own `upload_folder` may part a folder into several commits. A release is there as a whole or not at
all, so it is one `create_commit`; large files that reached the Hub before a broken attempt are not sent again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import UsageError

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

MAIN = "main"
TRAINING = "training.json"
"""The file of a release or a checkpoint that says how it was trained."""

Say = Callable[[str], Any]
"""Is told one line."""

Result = TypeVar("Result")

# Answers after which another try may go through: time-outs, conflicts with another commit, too many requests.
_PASSING = (408, 409, 412, 425, 429, 500, 502, 503, 504)
# The client wraps what goes wrong with a large file: storage refuses one that arrived damaged, or after the time for
# which its upload was allowed. The next try asks for another.
_OF_STORAGE = (400, 403)
# Revisions that others made carry no training.json; their names tell, as in stage1-step-500 and stage2-200k.
_NAMED_STEP = re.compile(r"(?P<stage>.+?)-(?:step-)?(?P<number>\d+)(?P<thousands>k?)")


@dataclass(frozen=True)
class Checkpoint:
    """A state of a model in training, as a revision of its repository.

    Attributes:
        revision: branch or tag.
        commit: what it points to.
        stage: of the training.
        step: optimizer steps of that stage.
        tokens: that the model had read in that stage; None where nobody wrote it down.
    """

    revision: str
    commit: str
    stage: str
    step: int
    tokens: int | None


@dataclass(frozen=True)
class Patience:
    """Tries again where the Hub or the way to it fails for the moment.

    Attributes:
        say: is told of each try that failed.
        waits: seconds between tries, unless the Hub says how long.
    """

    say: Say = print
    waits: tuple[float, ...] = (1.0, 5.0, 20.0)

    def __call__(self, call: Callable[[], Result]) -> Result:
        """What a call returns that does no harm when it is made again."""
        for wait in self.waits:
            try:
                return call()
            except Exception as error:
                if not is_passing(error):
                    raise
                pause = _retry_after(error) or wait
                self.say(f"{explain(error)} Trying again in {pause:.0f} s.")
                time.sleep(pause)
        return call()


PATIENT = Patience()
"""As a command is."""


@dataclass(frozen=True)
class Committed:
    """A commit, and whether it was made now: equal contents make none."""

    info: CommitInfo
    is_new: bool


def create_repository(
    api: HfApi, repository: str, private: bool | None = None, kind: str = "model", patience: Patience = PATIENT
) -> str:
    """Makes a repository where there is none; to be private it is so from the first request on.

    Args:
        api: the client.
        repository: `ORG/NAME`.
        private: None for what the account's settings say.
        kind: `model` or `dataset`.
        patience: of the tries.

    Returns:
        Its name, with the user's own where `repository` has none.

    Raises:
        UsageError: it is to be private, and is there and public.
    """
    made = patience(lambda: api.create_repo(repository, repo_type=kind, private=private, exist_ok=True))
    if private and not patience(lambda: api.repo_info(repository, repo_type=kind)).private:
        raise UsageError(
            f"{repository} is public, and --private was asked for. Make it private first, or leave it out."
        )
    return str(made.repo_id)


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
    """Makes a revision hold the files of a folder, in one commit.

    Args:
        api: the client.
        folder: whose files are sent, with their paths in it.
        repository: `ORG/NAME`, which must be there.
        revision: a branch; one that is not there is made from `main`, and is gone again where the commit fails.
        message: the commit's title.
        kind: `model` or `dataset`.
        replaced: whether a path of the revision is deleted where the folder does not hold it.
        description: more about it.
        create_pr: whether the commit is proposed in a pull request.
        patience: of the tries.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

    # The Hub's own file, by which it knows large ones, stays.
    kept = {*files, ".gitattributes"}
    parents: list[str] = []

    def commit() -> Committed:
        # With its parent named, what another one commits in the meantime is a conflict and no loss.
        parent = str(api.repo_info(repository, repo_type=kind, revision=revision).sha)
        parents.append(parent)
        there = api.list_repo_files(repository, repo_type=kind, revision=parent)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(path, str(file)) for path, file in files.items()),
            *(CommitOperationDelete(path) for path in there if path not in kept and replaced(path)),
        ]
        made = api.create_commit(
            repository,
            operations,
            commit_message=message,
            commit_description=description,
            repo_type=kind,
            revision=revision,
            parent_commit=parent,
            create_pr=create_pr,
        )
        # A commit whose answer was lost stands before the next try, which then has nothing to do.
        return Committed(made, str(made.oid) != parents[0])

    is_new = revision != MAIN and not patience(lambda: api.revision_exists(repository, revision, repo_type=kind))
    if is_new:
        patience(lambda: api.create_branch(repository, branch=revision, repo_type=kind, exist_ok=True))
    try:
        return patience(commit)
    except BaseException:
        if is_new:
            # Where the Hub is gone altogether, the branch stays as main is, and the next try finds it.
            with suppress(Exception):
                api.delete_branch(repository, branch=revision, repo_type=kind)
        raise


def checkpoints(api: HfApi, repository: str, patience: Patience = PATIENT) -> list[Checkpoint]:
    """The checkpoints that a repository has as branches or tags, by stage and step; without `main`."""
    refs = patience(lambda: api.list_repo_refs(repository))
    named = [(ref.name, str(ref.target_commit)) for ref in (*refs.branches, *refs.tags) if ref.name != MAIN]
    found = [patience(partial(_checkpoint, api, repository, name, commit)) for name, commit in named]
    return sorted((one for one in found if one is not None), key=lambda one: (one.stage, one.step, one.revision))


def _checkpoint(api: HfApi, repository: str, revision: str, commit: str) -> Checkpoint | None:
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = api.hf_hub_download(repository, TRAINING, revision=commit)
        last = json.loads(Path(path).read_text(encoding="utf-8"))["stages"][-1]
        return Checkpoint(revision, commit, str(last["stage"]), int(last["steps"]), int(last["tokens"]))
    except EntryNotFoundError:
        named = _NAMED_STEP.fullmatch(revision)
        if named is None:
            return None
        step = int(named["number"]) * (1000 if named["thousands"] else 1)
        return Checkpoint(revision, commit, named["stage"], step, None)
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def is_passing(error: BaseException) -> bool:
    """Whether another try may go through: a server in trouble, a broken connection, a commit in between."""
    status = _status(error)
    if isinstance(error, RuntimeError) and status in _OF_STORAGE:
        return True
    return status in _PASSING if status is not None else _is_broken_connection(error)


def check_name(repository: str) -> None:
    """Whether `--repo` can be the name of a repository.

    Raises:
        UsageError: it cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"--repo {repository}: {error}") from error
    if "/" not in repository:
        raise UsageError(f"--repo {repository}: write ORG/NAME.")


@contextmanager
def in_one_line(repository: str) -> Iterator[None]:
    """Turns what the Hub, its client or the way to it says into a `UsageError` of one line, with the way out."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except UsageError:
        raise
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError, RuntimeError) as error:
        raise UsageError(f"{repository}: {explain(error)}") from error
    except Exception as error:
        if not _is_broken_connection(error):
            raise
        raise UsageError(f"{repository}: {explain(error)}") from error


def explain(error: BaseException) -> str:
    """An error of the Hub's in one line, with the way out; nothing of a request's headers stands in it."""
    from huggingface_hub import errors

    told: tuple[tuple[type[BaseException], str], ...] = (
        (errors.GatedRepoError, "it is gated: ask for access on its page, and log in (hf auth login)."),
        (errors.RevisionNotFoundError, "there is no such revision."),
        (errors.EntryNotFoundError, "there is no such file."),
        (
            errors.RepositoryNotFoundError,
            "no such repository, or one that the token may not see. Check the name, and log in (hf auth login).",
        ),
        (errors.OfflineModeIsEnabled, "the Hub is needed, and HF_HUB_OFFLINE forbids it. Unset it."),
        (errors.LocalTokenNotFoundError, "there is no token. Log in (hf auth login), or set HF_TOKEN."),
    )
    for cause in _causes(error):
        for kind, line in told:
            if isinstance(cause, kind):
                return line
    status = _status(error)
    if status == 401:
        return "the Hub does not know the token (401). Log in (hf auth login), or set HF_TOKEN."
    if status == 403:
        return "the token may not do that there (403). Log in with one that may (hf auth login), or name another."
    if status in (409, 412):
        return f"another commit came in between ({status})."
    if status == 429:
        return "too many requests for now (429)."
    if status is not None:
        if status >= 500:
            return f"the Hub answers {status}. Run the same command again: it goes on from there."
        said = next((str(found) for one in _causes(error) if (found := getattr(one, "server_message", None))), "")
        return f"the Hub answers {status}{': ' if said else '.'}{' '.join(said.split())}"
    if _is_broken_connection(error):
        last = [*_causes(error)][-1]
        return f"the connection broke ({type(last).__name__}). Run the same command again: it goes on from there."
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it: the client wraps those of uploads."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _response(error: BaseException) -> Any:
    return next((found for one in _causes(error) if (found := getattr(one, "response", None)) is not None), None)


def _status(error: BaseException) -> int | None:
    return getattr(_response(error), "status_code", None)


def _retry_after(error: BaseException) -> float | None:
    wait = getattr(_response(error), "headers", {}).get("Retry-After", "")
    return float(wait) if wait.isdigit() else None


def _is_broken_connection(error: BaseException) -> bool:
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    # The client's HTTP library calls everything that goes wrong an HTTPError, answers of the server included.
    return _status(error) is None and any(
        isinstance(cause, (HTTPError, ConnectionError, TimeoutError)) and not isinstance(cause, OfflineModeIsEnabled)
        for cause in _causes(error)
    )
