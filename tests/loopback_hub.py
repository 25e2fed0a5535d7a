"""A Hub on this machine that really stores repositories, for tests of pushing and pulling.

    with LoopbackHub(folder) as hub:
        HfApi(endpoint=hub.url, token=hub.token).create_repo("org/name")

A repository has branches and tags that point to commits; a commit is a map from paths to contents, each stored once
under its SHA-256. `hub.down()` makes it drop every connection until `hub.up()`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_LFS = (".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".onnx")
_BIG = 1_000_000


@dataclass
class Commit:
    """A state of a repository: the SHA-256 and size of the content at every path."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, tuple[str, int]]


@dataclass
class Repository:
    """A repository, and what its branches and tags point to."""

    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag or an id names."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def commit(self, branch: str, title: str, files: dict[str, tuple[str, int]]) -> Commit:
        """Adds a commit to a branch; equal files make none."""
        parent = self.branches.get(branch)
        if parent is not None and self.commits[parent].files == files and title != "initial commit":
            return self.commits[parent]
        content = json.dumps([parent, title, sorted(files.items()), len(self.commits)])
        made = Commit(hashlib.sha1(content.encode()).hexdigest(), parent, title, files)
        self.commits[made.oid] = made
        self.branches[branch] = made.oid
        return made

    def history(self, commit: Commit) -> list[Commit]:
        """A commit and those before it."""
        found = [commit]
        while (parent := found[-1].parent) is not None:
            found.append(self.commits[parent])
        return found


class LoopbackHub:
    """The server; a context manager.

    Args:
        folder: where contents are stored.
    """

    token = "hf_loopback_token"
    user = "loopback"

    def __init__(self, folder: Path) -> None:
        self.blobs = folder / "blobs"
        self.blobs.mkdir(parents=True)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        self.is_down = False
        self._lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def down(self) -> None:
        """Drops every connection from now on."""
        self.is_down = True

    def up(self) -> None:
        """Answers again."""
        self.is_down = False

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that make a new process talk to this Hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
        }

    def read(self, repository: str, path: str, revision: str = "main", kind: str = "model") -> bytes:
        """What a repository holds at a path."""
        commit = self.repositories[kind, repository].find(revision)
        assert commit is not None
        return self.content(commit.files[path][0])

    def content(self, sha: str) -> bytes:
        """A stored content."""
        return (self.blobs / sha).read_bytes()

    def store(self, content: bytes) -> tuple[str, int]:
        """Stores a content."""
        sha = hashlib.sha256(content).hexdigest()
        (self.blobs / sha).write_bytes(content)
        return sha, len(content)


class _Problem(Exception):
    def __init__(self, status: int, code: str = "", **headers: str) -> None:
        self.status, self.headers = status, {**({"X-Error-Code": code} if code else {}), **headers}


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.hub.is_down:
            self.close_connection = True
            self.connection.close()
            return
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        body = self._body()
        self.hub.requests.append(f"{self.command} {path}")
        with self.hub._lock:
            try:
                for method, pattern, action in _ROUTES:
                    found = re.fullmatch(pattern, path)
                    if found and self.command in method.split("|"):
                        answer = action(self, body, **found.groupdict())
                        break
                else:
                    raise _Problem(404)
            except _Problem as problem:
                self._send(problem.status, b'{"error": "no"}', problem.headers)
                return
        if isinstance(answer, tuple):
            self._send(*answer)
        else:
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # What is asked of it

    def _authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _write_allowed(self) -> None:
        if not self._authorised():
            raise _Problem(401)

    def _repository(self, kind: str, name: str) -> Repository:
        found = self.hub.repositories.get((kind.rstrip("s"), name))
        if found is None or (found.private and not self._authorised()):
            raise _Problem(404 if self._authorised() else 401, "RepoNotFound")
        return found

    def _commit(self, kind: str, name: str, revision: str) -> Commit:
        found = self._repository(kind, name).find(revision)
        if found is None:
            raise _Problem(404, "RevisionNotFound")
        return found

    def whoami(self, body: bytes) -> Any:
        self._write_allowed()
        return {"type": "user", "name": self.hub.user, "orgs": [], "auth": {"type": "access_token"}}

    def validate(self, body: bytes) -> Any:
        return {"errors": [], "warnings": []}

    def create(self, body: bytes) -> Any:
        self._write_allowed()
        asked = json.loads(body)
        name = f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        kind = asked.get("type") or "model"
        if (kind, name) in self.hub.repositories:
            return 409, json.dumps({"url": f"{self.hub.url}/{name}"}).encode(), {}
        made = Repository(private=bool(asked.get("private")) or asked.get("visibility") == "private")
        made.commit("main", "initial commit", {".gitattributes": self.hub.store(b"*.safetensors filter=lfs\n")})
        self.hub.repositories[kind, name] = made
        return {"url": f"{self.hub.url}/{name}", "name": name}

    def delete(self, body: bytes) -> Any:
        self._write_allowed()
        asked = json.loads(body)
        name = f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        if self.hub.repositories.pop((asked.get("type") or "model", name), None) is None:
            raise _Problem(404, "RepoNotFound")
        return {}

    def preupload(self, body: bytes, kind: str, name: str, revision: str) -> Any:
        self._write_allowed()
        self._commit(kind, name, revision)
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(_LFS) or file["size"] > _BIG else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
        }

    def lfs_batch(self, body: bytes, name: str, kind: str | None = None) -> Any:
        self._write_allowed()
        objects = []
        for asked in json.loads(body)["objects"]:
            there = (self.hub.blobs / asked["oid"]).is_file()
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}", "header": {}}}
            objects.append({**asked, **({} if there else {"actions": upload})})
        return (
            200,
            json.dumps({"transfer": "basic", "objects": objects}).encode(),
            {"Content-Type": "application/vnd.git-lfs+json"},
        )

    def lfs_put(self, body: bytes, oid: str) -> Any:
        sha, _ = self.hub.store(body)
        if sha != oid:
            raise _Problem(422)
        return {}

    def commit(self, body: bytes, kind: str, name: str, revision: str) -> Any:
        self._write_allowed()
        repository = self._repository(kind, name)
        if revision not in repository.branches:
            raise _Problem(404, "RevisionNotFound")
        before = repository.commits[repository.branches[revision]]
        files, title = dict(before.files), ""
        for line in body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, before.oid):
                    raise _Problem(412)
            elif operation["key"] == "file":
                files[value["path"]] = self.hub.store(base64.b64decode(value["content"]))
            elif operation["key"] == "lfsFile":
                if not (self.hub.blobs / value["oid"]).is_file():
                    raise _Problem(422)
                files[value["path"]] = value["oid"], value["size"]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif operation["key"] == "deletedFolder":
                files = {path: file for path, file in files.items() if not path.startswith(value["path"])}
        made = repository.commit(revision, title, files)
        return {"commitOid": made.oid, "commitUrl": f"{self.hub.url}/{name}/commit/{made.oid}", "success": True}

    def branch(self, body: bytes, kind: str, name: str, revision: str) -> Any:
        self._write_allowed()
        repository = self._repository(kind, name)
        if self.command == "DELETE":
            repository.branches.pop(revision, None)
            return {}
        if revision in repository.branches:
            raise _Problem(409)
        start = self._commit(kind, name, (json.loads(body or b"{}").get("startingPoint")) or "main")
        repository.branches[revision] = start.oid
        return {}

    def tag(self, body: bytes, kind: str, name: str, revision: str) -> Any:
        self._write_allowed()
        repository = self._repository(kind, name)
        if self.command == "DELETE":
            repository.tags.pop(revision, None)
            return {}
        asked = json.loads(body)
        if asked["tag"] in repository.tags:
            raise _Problem(409)
        repository.tags[asked["tag"]] = self._commit(kind, name, revision).oid
        return {}

    def info(self, body: bytes, kind: str, name: str, revision: str = "main") -> Any:
        commit = self._commit(kind, name, revision)
        return {
            "_id": "0",
            "id": name,
            "modelId": name,
            "sha": commit.oid,
            "private": self._repository(kind, name).private,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [
                {"rfilename": path, **_described(*file, path)} for path, file in sorted(commit.files.items())
            ],
        }

    def tree(self, body: bytes, kind: str, name: str, revision: str, folder: str | None = None) -> Any:
        commit = self._commit(kind, name, revision)
        prefix = f"{folder}/" if folder else ""
        found = {path: file for path, file in sorted(commit.files.items()) if path.startswith(prefix)}
        if folder and not found:
            raise _Problem(404, "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: list[dict[str, Any]] = []
        folders: set[str] = set()
        for path, file in found.items():
            inner = path[len(prefix) :].split("/")
            parents = ["/".join(inner[: count + 1]) for count in range(len(inner) - 1)]
            for parent in parents if recursive else parents[:1]:
                if parent not in folders:
                    folders.add(parent)
                    oid = hashlib.sha1(parent.encode()).hexdigest()
                    entries.append({"type": "directory", "path": prefix + parent, "oid": oid, "size": 0})
            if recursive or len(inner) == 1:
                entries.append({"type": "file", "path": path, **_described(*file, path)})
        return entries

    def paths_info(self, body: bytes, kind: str, name: str, revision: str) -> Any:
        commit = self._commit(kind, name, revision)
        content_type = self.headers.get("Content-Type", "")
        asked = json.loads(body)["paths"] if "json" in content_type else parse_qs(body.decode()).get("paths", [])
        return [
            {"type": "file", "path": path, **_described(*commit.files[path], path)}
            for path in asked
            if path in commit.files
        ]

    def refs(self, body: bytes, kind: str, name: str) -> Any:
        repository = self._repository(kind, name)

        def listed(kind_of_ref: str, refs: dict[str, str]) -> list[dict[str, str]]:
            return [
                {"name": ref, "ref": f"refs/{kind_of_ref}/{ref}", "targetCommit": oid}
                for ref, oid in sorted(refs.items())
            ]

        return {
            "branches": listed("heads", repository.branches),
            "tags": listed("tags", repository.tags),
            "converts": [],
        }

    def commits(self, body: bytes, kind: str, name: str, revision: str) -> Any:
        history = self._repository(kind, name).history(self._commit(kind, name, revision))
        return [
            {"id": commit.oid, "title": commit.title, "message": "", "authors": [], "date": "2025-01-01T00:00:00.000Z"}
            for commit in history
        ]

    def resolve(self, body: bytes, name: str, revision: str, path: str, kind: str | None = None) -> Any:
        commit = self._commit(kind or "models", name, revision)
        if path not in commit.files:
            raise _Problem(404, "EntryNotFound", **{"X-Repo-Commit": commit.oid})
        sha, size = commit.files[path]
        content = self.hub.content(sha)
        headers = {"ETag": f'"{sha}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path.endswith(_LFS):
            headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(size)}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and size:
            first, last = int(asked[1]), min(size - 1, int(asked[2] or size - 1))
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            return 206, content[first : last + 1], headers
        return 200, content, headers


def _described(sha: str, size: int, path: str) -> dict[str, Any]:
    """A file as listings show it."""
    lfs = {"lfs": {"oid": sha, "size": size, "pointerSize": 130, "sha256": sha}} if path.endswith(_LFS) else {}
    return {"oid": sha[:40], "blobId": sha[:40], "size": size, **lfs}


_KIND, _NAME, _REVISION = r"(?P<kind>models|datasets)", r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
_API = f"/api/{_KIND}/{_NAME}"
_ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", "/api/repos/create", _Handler.create),
    ("DELETE", "/api/repos/delete", _Handler.delete),
    ("POST", f"{_API}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", f"{_API}/commit/{_REVISION}", _Handler.commit),
    ("POST|DELETE", f"{_API}/branch/{_REVISION}", _Handler.branch),
    ("POST|DELETE", f"{_API}/tag/{_REVISION}", _Handler.tag),
    ("POST", f"{_API}/paths-info/{_REVISION}", _Handler.paths_info),
    ("GET", f"{_API}/tree/{_REVISION}(?:/(?P<folder>.+))?", _Handler.tree),
    ("GET", f"{_API}/revision/{_REVISION}", _Handler.info),
    ("GET", f"{_API}/refs", _Handler.refs),
    ("GET", f"{_API}/commits/{_REVISION}", _Handler.commits),
    ("GET", _API, _Handler.info),
    ("POST", rf"/(?:(?P<kind>datasets)/)?{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]+)", _Handler.lfs_put),
    ("GET|HEAD", rf"/(?:(?P<kind>datasets)/)?{_NAME}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
]
