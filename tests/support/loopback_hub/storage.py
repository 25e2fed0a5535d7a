"""Repositories in a folder: their contents, commits, branches and tags."""

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
    """A content: its SHA-256, its size in bytes, git's id of it, and whether git holds only a pointer to it."""

    sha: str
    size: int
    oid: str
    lfs: bool = False

    @property
    def pointer_size(self) -> int:
        """The bytes of the pointer."""
        return len(_pointer(self.sha, self.size))


@dataclass
class Commit:
    """A state of a repository: the file at every path."""

    oid: str
    parent: str | None
    title: str
    message: str
    date: str
    files: dict[str, File]


@dataclass
class Repository:
    """A repository, and what its branches and tags point to.

    Args:
        path: the file it is written to.
        visibilities: "public" or "private": all it ever had, the present one last.
        gated: whether its contents are only for those who were let in.
        objects: SHA-256 of the LFS objects that were uploaded to it, in a commit or not yet.
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
        """Whether only its owner sees it."""
        return self.visibilities[-1] == "private"

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag or an id names."""
        revision = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    def commit(self, branch: str, title: str, files: dict[str, File], message: str = "") -> Commit:
        """Adds a commit to a branch, as the Hub does even where nothing changes: it is for the client to see that."""
        parent = self.branches.get(branch)
        content = json.dumps([parent, title, sorted(files.items()), len(self.commits)])
        date = (_FIRST_DAY + timedelta(minutes=len(self.commits))).isoformat(timespec="milliseconds") + "Z"
        made = Commit(hashlib.sha1(content.encode()).hexdigest(), parent, title, message, date, files)
        self.commits[made.oid] = made
        self.branches[branch] = made.oid
        self.save()
        return made

    def history(self, commit: Commit) -> list[Commit]:
        """A commit and those before it."""
        found = [commit]
        while (parent := found[-1].parent) is not None:
            found.append(self.commits[parent])
        return found

    def save(self) -> None:
        """Writes everything but the contents."""
        state = asdict(self)
        del state["path"]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _write(self.path, json.dumps(state).encode())

    @classmethod
    def load(cls, path: Path) -> Repository:
        """What was saved."""
        state = json.loads(path.read_bytes())
        commits = {
            oid: Commit(**{**commit, "files": {name: File(*file) for name, file in commit["files"].items()}})
            for oid, commit in state.pop("commits").items()
        }
        return cls(path, commits=commits, **state)


class Storage:
    """A folder of repositories by kind ("model" or "dataset") and name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.blobs = folder, folder / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        self.repositories: dict[tuple[str, str], Repository] = {}
        for path in sorted(folder.glob("repositories/*/*/*.json")):
            self.repositories[path.parts[-3], f"{path.parts[-2]}/{path.stem}"] = Repository.load(path)

    def create(self, kind: str, name: str, visibility: str) -> Repository:
        """A new repository, with the first commit that every repository has."""
        path = self.folder / "repositories" / kind / f"{name}.json"
        made = Repository(path, [visibility])
        made.commit("main", "initial commit", {".gitattributes": self.store(b"*.safetensors filter=lfs\n")})
        self.repositories[kind, name] = made
        return made

    def delete(self, kind: str, name: str) -> None:
        """Forgets a repository."""
        self.repositories.pop((kind, name)).path.unlink()

    def read(self, repository: str, path: str, revision: str = "main", kind: str = "model") -> bytes:
        """What a repository holds at a path."""
        commit = self.repositories[kind, repository].find(revision)
        assert commit is not None
        return self.content(commit.files[path].sha)

    def content(self, sha: str) -> bytes:
        """A stored content."""
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
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    aside.write_bytes(content)
    aside.replace(path)
