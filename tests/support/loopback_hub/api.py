"""The Hub's API, as far as huggingface_hub 2.4 uses it in the tests."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from . import cards
from .calls import Answer, Call, Refusal, json_answer
from .storage import Commit, File, Repository

_LFS = (".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".onnx", ".npz", ".model", ".zst", ".gz", ".zip")
_BIG = 1_000_000


def answer(call: Call) -> Answer:
    """Computes the response to a request.

    Raises:
        Refusal: the request fails.
    """
    _ = call.user  # An invalid token is refused for all paths.
    for methods, pattern, action in _ROUTES:
        match = re.fullmatch(pattern, call.path)
        if match and call.method in methods.split("|"):
            groups = {name: value if value is None else unquote(value) for name, value in match.groupdict().items()}
            result = action(call, **groups)
            return result if isinstance(result, Answer) else json_answer(result)
    raise Refusal(404, "Sorry, we can't find the page you are looking for.")


# Users and repositories


def _whoami(call: Call) -> Any:
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    role = "write" if call.is_owner else "read"
    auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": role}}
    return {"type": "user", "name": call.user, "fullname": call.user, "orgs": [], "auth": auth}


def _validate(call: Call) -> Any:
    body = call.json()
    errors, warnings = cards.problems(body["content"], body.get("repoType") or "model")
    result = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return json_answer(result, 400 if errors else 200)


def _create(call: Call) -> Any:
    call.must_write()
    body = call.json()
    kind, name = _kind_and_name(call, body)
    url = f"{call.hub.url}/{'' if kind == 'model' else f'{kind}s/'}{name}"
    if kind == "space" and body.get("sdk") not in ("gradio", "docker", "static"):
        raise Refusal(400, '"sdk" must be one of [gradio, docker, static]')
    if (kind, name) in call.hub.repositories:
        return json_answer({"error": f"You already created this {kind} repo", "url": url}, 409)
    private = body.get("private") or body.get("visibility") == "private"
    call.hub.create(kind, name, "private" if private else "public")
    return {"url": url, "name": name, "id": name}


def _delete(call: Call) -> Any:
    call.must_write()
    kind, name = _kind_and_name(call, call.json())
    call.repository(kind, name)
    call.hub.delete(kind, name)
    return {}


def _kind_and_name(call: Call, body: dict[str, Any]) -> tuple[str, str]:
    kind, parts = body.get("type") or "model", (body.get("organization") or call.hub.user, body["name"])
    if kind not in ("model", "dataset", "space") or any(not re.fullmatch(r"[\w][\w.-]*", part) for part in parts):
        raise Refusal(400, f"Invalid repo type or name: {kind} {'/'.join(parts)}")
    return kind, "/".join(parts)


def _settings(call: Call, kind: str, name: str) -> Any:
    call.must_write()
    repository, body = call.repository(kind, name), call.json()
    if "private" in body:
        body["visibility"] = "private" if body["private"] else "public"
    if "visibility" in body:
        repository.visibilities.append(body["visibility"])
    if "gated" in body:
        repository.gated = bool(body["gated"])
    repository.save()
    return {}


def _auth_check(call: Call, kind: str, name: str, write: str | None) -> Any:
    if write:
        call.must_write()
    call.repository(kind, name, contents=True)
    return {}


# Uploads


def _preupload(call: Call, kind: str, name: str, revision: str) -> Any:
    call.must_write()
    existing = call.commit(kind, name, revision).files
    modes = []
    for file in call.json()["files"]:
        path, sample = file["path"], base64.b64decode(file.get("sample", ""))
        lfs = path.endswith(_LFS) or file["size"] > _BIG or b"\0" in sample
        mode = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        if path in existing:
            mode["oid"] = existing[path].sha if existing[path].lfs else existing[path].oid
        modes.append(mode)
    return {"files": modes}


def _lfs_batch(call: Call, name: str, kind: str | None) -> Any:
    call.must_write()
    repository, body, objects = call.repository(kind, name), call.json(), []
    if body.get("operation") != "upload" or body.get("hash_algo", "sha256") != "sha256":
        raise Refusal(422, "only uploads by SHA-256")
    for item in body["objects"]:
        oid, size = item["oid"], item["size"]
        described: dict[str, Any] = {"oid": oid, "size": size}
        if not re.fullmatch("[0-9a-f]{64}", oid):
            described["error"] = {"code": 422, "message": "Invalid oid"}
        elif oid not in repository.objects:
            address = uuid.uuid4().hex
            call.hub.uploads[address] = (kind or "models", name, oid, size)
            described["actions"] = {"upload": {"href": f"{call.hub.url}/lfs/{oid}/{address}", "header": {}}}
        objects.append(described)
    return json_answer(
        {"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"}
    )


def _lfs_put(call: Call, oid: str, address: str) -> Any:
    kind, name, expected, size = call.hub.uploads.get(address, ("", "", "", 0))
    repository = call.hub.repositories.get((kind.rstrip("s"), name))
    if repository is None or expected != oid:
        raise Refusal(403, "unknown upload URL")
    if len(call.body) != size or hashlib.sha256(call.body).hexdigest() != oid:
        raise Refusal(400, f"BadDigest: the content differs from the announced {size} bytes")
    call.hub.store(call.body)
    if oid not in repository.objects:
        repository.objects.append(oid)
        repository.save()
    return {}


def _make_commit(call: Call, kind: str, name: str, revision: str) -> Any:
    call.must_write()
    repository = call.repository(kind, name)
    if call.has_flag("create_pr"):
        raise Refusal(400, "pull requests are not supported")
    if revision not in repository.branches:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    before = repository.commits[repository.branches[revision]]
    files, title, message = dict(before.files), "", ""
    try:
        for line in call.body.decode().splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                title, message = value["summary"], value.get("description", "")
                if value.get("parentCommit") not in (None, before.oid):
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[_path(value)] = call.hub.store(base64.b64decode(value["content"], validate=True))
            elif key == "lfsFile":
                files[_path(value)] = _pointed(call, repository, value)
            elif key in ("deletedFile", "deletedFolder"):
                files = _without(files, _path(value), folder=key == "deletedFolder")
            else:
                raise ValueError(f"unknown operation {key!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(400, f"not a commit: {error}") from None
    oid = repository.commit(revision, title, files, message).oid
    return {"commitOid": oid, "commitUrl": f"{call.hub.url}/{name}/commit/{oid}", "success": True}


def _path(value: dict[str, Any]) -> str:
    path = str(value["path"]).rstrip("/")
    if any(part in ("", ".", "..", ".git") for part in path.split("/")):
        raise ValueError(f"invalid path {path!r}")
    return path


def _pointed(call: Call, repository: Repository, value: dict[str, Any]) -> File:
    if value["oid"] not in repository.objects:
        raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
    file = call.hub.pointer(value["oid"])
    if file.size != value.get("size", file.size):
        raise Refusal(400, f"LFS pointer has another size than its file: {value['path']}")
    return file


def _without(files: dict[str, File], path: str, folder: bool) -> dict[str, File]:
    left = {
        name: file for name, file in files.items() if not (name.startswith(f"{path}/") if folder else name == path)
    }
    if len(left) == len(files):
        raise Refusal(404, f'A file with the name "{path}" does not exist', "EntryNotFound")
    return left


# Branches and tags


def _branch(call: Call, kind: str, name: str, revision: str) -> Any:
    call.must_write()
    repository = call.repository(kind, name)
    if call.method == "DELETE":
        if revision == "main":
            raise Refusal(403, "the main branch cannot be deleted")
        return _drop(repository, repository.branches, revision)
    if revision in repository.branches:
        raise Refusal(409, f"Reference already exists: refs/heads/{revision}")
    repository.branches[revision] = call.commit(kind, name, call.json().get("startingPoint") or "main").oid
    repository.save()
    return {}


def _tag(call: Call, kind: str, name: str, revision: str) -> Any:
    call.must_write()
    repository = call.repository(kind, name)
    if call.method == "DELETE":
        return _drop(repository, repository.tags, revision)
    tag = call.json()["tag"]
    if tag in repository.tags:
        raise Refusal(409, f"Tag reference exists already: {tag}")
    repository.tags[tag] = call.commit(kind, name, revision).oid
    repository.save()
    return {}


def _drop(repository: Repository, refs: dict[str, str], ref: str) -> Any:
    if refs.pop(ref, None) is None:
        raise Refusal(404, f"Invalid rev id: {ref}", "RevisionNotFound")
    repository.save()
    return {}


def _refs(call: Call, kind: str, name: str) -> Any:
    repository = call.repository(kind, name)

    def listed(folder: str, refs: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": ref, "ref": f"refs/{folder}/{ref}", "targetCommit": oid} for ref, oid in sorted(refs.items())]

    refs = {"branches": listed("heads", repository.branches), "tags": listed("tags", repository.tags), "converts": []}
    return {**refs, "pullRequests": []} if call.has_flag("include_prs") else refs


def _commits(call: Call, kind: str, name: str, revision: str) -> Any:
    history = call.repository(kind, name).history(call.commit(kind, name, revision))
    authors = [{"user": call.hub.user}]
    return _page(
        call,
        [
            {"id": item.oid, "title": item.title, "message": item.message, "authors": authors, "date": item.date}
            for item in history
        ],
    )


# Contents


def _info(call: Call, kind: str, name: str, revision: str = "main") -> Any:
    repository, commit = call.repository(kind, name), call.commit(kind, name, revision)
    card: dict[str, Any] = {}
    if "README.md" in commit.files:
        try:
            card = cards.metadata(call.hub.content(commit.files["README.md"].sha).decode())
        except ValueError:
            card = {}
    siblings = []
    for path, file in sorted(commit.files.items()):
        described = _described(file) if call.has_flag("blobs") else {}
        siblings.append({"rfilename": path, **{name: described[name] for name in described if name != "oid"}})
    return {
        "_id": hashlib.sha1(f"{kind}/{name}".encode()).hexdigest()[:24],
        "id": name,
        **({"modelId": name} if kind == "models" else {}),
        **{field: card[field] for field in ("pipeline_tag", "library_name", "mask_token") if field in card},
        "author": name.split("/")[0],
        "sha": commit.oid,
        "private": repository.private,
        "gated": "auto" if repository.gated else False,
        "disabled": False,
        "createdAt": repository.history(commit)[-1].date,
        "lastModified": commit.date,
        "tags": card.get("tags") or [],
        **({"cardData": card} if card else {}),
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
    }


def _described(file: File) -> dict[str, Any]:
    """A file in listings."""
    lfs = {"oid": file.sha, "sha256": file.sha, "size": file.size, "pointerSize": file.pointer_size}
    return {"oid": file.oid, "blobId": file.oid, "size": file.size, **({"lfs": lfs} if file.lfs else {})}


def _entry(commit: Commit, path: str, expand: bool) -> dict[str, Any] | None:
    """A file or folder in listings; None if it does not exist."""
    if path in commit.files:
        described = _described(commit.files[path])
        del described["blobId"]
        entry = {"type": "file", "path": path, **described}
    else:
        inside = [[name, file.oid] for name, file in sorted(commit.files.items()) if name.startswith(f"{path}/")]
        if not inside:
            return None
        entry = {"type": "directory", "path": path, "size": 0}
        entry["oid"] = hashlib.sha1(json.dumps(inside).encode()).hexdigest()
    if expand:
        entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
    return entry


def _tree(call: Call, kind: str, name: str, revision: str, folder: str | None) -> Any:
    commit = call.commit(kind, name, revision)
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    paths: dict[str, None] = {}
    for path in sorted(commit.files):
        if path.startswith(prefix):
            inner = path[len(prefix) :].split("/")
            depth = len(inner) if call.has_flag("recursive") else 1
            paths |= {prefix + "/".join(inner[: count + 1]): None for count in range(depth)}
    if prefix and not paths:
        message = f"{folder} does not exist on {revision}"
        raise Refusal(404, message, "EntryNotFound", {"X-Repo-Commit": commit.oid})
    return _page(call, [_entry(commit, path, call.has_flag("expand")) for path in paths])


def _page(call: Call, entries: list[Any]) -> Answer:
    """One page of a list, with a link to the next."""
    first = int(call.query.get("cursor", ["0"])[0])
    last = first + min(call.hub.page_size, int(call.query.get("limit", [call.hub.page_size])[0]))
    if last >= len(entries):
        return json_answer(entries[first:])
    query = urlencode({**call.query, "cursor": [last]}, doseq=True)
    return json_answer(entries[first:last], headers={"Link": f'<{call.hub.url}{call.path}?{query}>; rel="next"'})


def _paths_info(call: Call, kind: str, name: str, revision: str) -> Any:
    commit = call.commit(kind, name, revision)
    if "json" in call.headers.get("Content-Type", ""):
        paths, expand = call.json()["paths"], bool(call.json().get("expand"))
    else:
        form = parse_qs(call.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", ["false"])[0].lower() == "true"
    entries = [_entry(commit, path.strip("/"), expand) for path in paths]
    return [entry for entry in entries if entry]


def _resolve(call: Call, name: str, revision: str, path: str, kind: str | None) -> Any:
    commit = call.commit(kind, name, revision, contents=True)
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.oid})
    file = commit.files[path]
    content = call.hub.content(file.sha)
    headers = {
        "ETag": f'"{file.sha if file.lfs else file.oid}"',
        "X-Repo-Commit": commit.oid,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(path.rsplit('/', 1)[-1])}",
    }
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.sha}"', "X-Linked-Size": str(file.size)}
    span = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range") or "")
    if span is None or span[0] == "bytes=-":
        return Answer(200, content, headers)
    if span[1]:
        first, last = int(span[1]), min(file.size - 1, int(span[2] or file.size))
    else:
        first, last = max(0, file.size - int(span[2])), file.size - 1
    if first > last:
        return Answer(416, b"", {"Content-Range": f"bytes */{file.size}"})
    return Answer(206, content[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{file.size}"})


_KIND, _NAME, _REVISION = "(?P<kind>models|datasets|spaces)", "(?P<name>[^/]+/[^/]+)", "(?P<revision>[^/]+)"
_API, _PAGE = f"/api/{_KIND}/{_NAME}", f"/(?:(?P<kind>datasets|spaces)/)?{_NAME}"
_ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/api/whoami-v2", _whoami),
    ("POST", "/api/validate-yaml", _validate),
    ("POST", "/api/repos/create", _create),
    ("DELETE", "/api/repos/delete", _delete),
    ("PUT", f"{_API}/settings", _settings),
    ("GET", f"{_API}/auth-check(?P<write>/write)?", _auth_check),
    ("POST", f"{_API}/preupload/{_REVISION}", _preupload),
    ("POST", rf"{_PAGE}\.git/info/lfs/objects/batch", _lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]+)/(?P<address>[0-9a-f]+)", _lfs_put),
    ("POST", f"{_API}/commit/{_REVISION}", _make_commit),
    ("POST|DELETE", f"{_API}/branch/{_REVISION}", _branch),
    ("POST|DELETE", f"{_API}/tag/{_REVISION}", _tag),
    ("GET", f"{_API}/refs", _refs),
    ("GET", f"{_API}/commits/{_REVISION}", _commits),
    ("GET", f"{_API}/tree/{_REVISION}(?:/(?P<folder>.+))?", _tree),
    ("POST", f"{_API}/paths-info/{_REVISION}", _paths_info),
    ("GET|HEAD", f"{_API}/revision/{_REVISION}", _info),
    ("GET|HEAD", f"/api/{_KIND}/(?P<name>[^/]+(?:/[^/]+)?)", _info),
    (
        "GET|HEAD",
        f"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+(?:/[^/]+)?)/resolve/{_REVISION}/(?P<path>.+)",
        _resolve,
    ),
]
