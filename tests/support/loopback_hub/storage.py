"""Storage of repositories: contents, commits, branches and tags."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

_FIRST_DAY = datetime(2025, 1, 1)


class File(NamedTuple):
    """A file: SHA-256, size in bytes, git's id, and whether it is stored with LFS."""

    sha: str
    size: int
    oid: str
    lfs: bool = False

    @property
    def pointer_size(self) -> int:
        """Size of the LFS pointer in bytes."""
        return len(_pointer(self.sha, self.size))


@dataclass
class Commit:
    """A commit: the files by path, and its metadata."""

    oid: str
    parent: str | None
    title: str
    message: str
    date: str
    files: dict[str, File]


@dataclass
class Repository:
    """A repository.

    Args:
        path: file that stores it.
        visibilities: all visibilities since its creation, "public" or "private"; the current one is the last.
        gated: whether access to its contents is restricted.
        objects: SHA-256 of all uploaded LFS objects, also of those in no commit.
    """

    path: Path
    visibilities: list[str]
    gated: bool = False
    objects: list[str] = field(default_factory=list)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def private(self) -> bool:
        """Whether only its owner may see it."""
        return self.visibilities[-1] == "private"

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag or an id."""
        revision = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    def commit(self, branch: str, title: str, files: dict[str, File], message: str = "") -> Commit:
        """Adds a commit to a branch, also if nothing changes: as on the Hub, the client avoids empty commits."""
        parent = self.branches.get(branch)
        content = json.dumps([parent, title, sorted(files.items()), len(self.commits)])
        date = (_FIRST_DAY + timedelta(minutes=len(self.commits))).isoformat(timespec="milliseconds") + "Z"
        commit = Commit(hashlib.sha1(content.encode()).hexdigest(), parent, title, message, date, files)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        self.save()
        return commit

    def history(self, commit: Commit) -> list[Commit]:
        """A commit and its ancestors, newest first."""
        commits = [commit]
        while (parent := commits[-1].parent) is not None:
            commits.append(self.commits[parent])
        return commits

    def save(self) -> None:
        """Writes all data except file contents."""
        state = asdict(self)
        del state["path"]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _write(self.path, json.dumps(state).encode())

    @classmethod
    def load(cls, path: Path) -> Repository:
        """Reads a saved repository."""
        state = json.loads(path.read_bytes())
        commits = {
            oid: Commit(**{**commit, "files": {name: File(*file) for name, file in commit["files"].items()}})
            for oid, commit in state.pop("commits").items()
        }
        return cls(path, commits=commits, **state)


class Storage:
    """Repositories by kind ("model" or "dataset") and name, stored in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.blobs = folder, folder / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        self.repositories: dict[tuple[str, str], Repository] = {}
        for path in sorted(folder.glob("repositories/*/*/*.json")):
            self.repositories[path.parts[-3], f"{path.parts[-2]}/{path.stem}"] = Repository.load(path)

    def create(self, kind: str, name: str, visibility: str) -> Repository:
        """Creates a repository with its initial commit."""
        path = self.folder / "repositories" / kind / f"{name}.json"
        repository = Repository(path, [visibility])
        repository.commit("main", "initial commit", {".gitattributes": self.store(b"*.safetensors filter=lfs\n")})
        self.repositories[kind, name] = repository
        return repository

    def delete(self, kind: str, name: str) -> None:
        """Deletes a repository."""
        self.repositories.pop((kind, name)).path.unlink()

    def read(self, repository: str, path: str, revision: str = "main", kind: str = "model") -> bytes:
        """The content of a file in a repository."""
        commit = self.repositories[kind, repository].find(revision)
        assert commit is not None
        return self.content(commit.files[path].sha)

    def content(self, sha: str) -> bytes:
        """A stored content by its SHA-256."""
        return (self.blobs / sha).read_bytes()

    def store(self, content: bytes, lfs: bool = False) -> File:
        """Stores a content."""
        sha, size = hashlib.sha256(content).hexdigest(), len(content)
        if not (self.blobs / sha).is_file():
            _write(self.blobs / sha, content)
        return File(sha, size, _git_id(_pointer(sha, size) if lfs else content), lfs)

    def pointer(self, sha: str) -> File:
        """A stored content as an LFS file."""
        size = (self.blobs / sha).stat().st_size
        return File(sha, size, _git_id(_pointer(sha, size)), True)


def _pointer(sha: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n".encode()


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_bytes(content)
    temporary.replace(path)
