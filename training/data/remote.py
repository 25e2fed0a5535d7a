"""Files that fsspec reads and writes: `hf://`, `s3://`, `gs://`, `memory://` and so on.

A corpus is written to a remote directory through a local one, which holds the files that a job needs. Shards and
journals are uploaded when they are complete. Object stores have no locks: two jobs with the same part upload the same
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.hub_errors import explain
from llm_jp_modernbert.core.text_files import SourceError

# Names under which storages give the version of a file: ETags, hashes and times.
_VERSIONS = ("ETag", "etag", "blob_id", "xet_hash", "md5Hash", "mtime", "LastModified", "last_modified", "created")


@contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Turns the errors of a storage into a `SourceError` of one line that names the path."""
    try:
        yield
    except UsageError:
        raise
    # Each storage raises its own exceptions; fsspec names the package that is missing for it.
    except Exception as error:
        reason = explain(error) if path.startswith("hf://") else " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{path}: {reason}") from error


def file_system(path: str) -> tuple[Any, str]:
    """The fsspec file system of a remote path, and the path in it."""
    import fsspec

    return fsspec.core.url_to_fs(path)


def remote_files(pattern: str) -> tuple[list[str], bool]:
    """The files that a remote path, directory or glob pattern names, sorted; and whether it is a directory."""
    with storage_errors(pattern):
        system, path = file_system(pattern)
        is_directory = system.isdir(path)
        if is_directory:
            names = system.find(path)
        else:
            names = [path] if system.isfile(path) else [name for name in system.glob(path) if system.isfile(name)]
        return sorted(system.unstrip_protocol(name) for name in names), is_directory


def remote_size(path: str) -> int:
    """Size of a remote file in bytes, without a request if its directory has been listed."""
    with storage_errors(path):
        system, name = file_system(path)
        return int(system.info(name)["size"])


def remote_version(path: str) -> tuple[int, str]:
    """Size of a remote file in bytes, and the version that its storage states, such as an ETag."""
    with storage_errors(path):
        system, name = file_system(path)
        system.invalidate_cache()
        status = system.info(name)
        version = next((str(status[key]) for key in _VERSIONS if status.get(key)), "")
        return int(status["size"]), version


@dataclass(frozen=True)
class RemoteDirectory:
    """A remote directory and its local copy.

    Attributes:
        url: the remote directory.
        local: the local copy.
    """

    url: str
    local: Path

    def download(self, is_needed: Callable[[str], bool]) -> None:
        """Downloads the needed files; of the others, empty files show that they exist."""
        with storage_errors(self.url):
            system, root = file_system(self.url)
            system.invalidate_cache()
            for name in system.find(root):
                relative = name.removeprefix(root).lstrip("/")
                # Every repository of the Hub has one.
                if relative == ".gitattributes":
                    continue
                target = self.local / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                if is_needed(relative):
                    system.get_file(name, str(target))
                else:
                    target.touch()

    def upload(self, path: Path) -> None:
        """Uploads a file of the local copy."""
        with storage_errors(self.url):
            system, root = file_system(self.url)
            target = f"{root.rstrip('/')}/{path.relative_to(self.local).as_posix()}"
            # Directories of object stores do not exist.
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(str(path), target)

    def remove(self, name: str) -> None:
        """Removes a remote directory below this one, if it exists."""
        with storage_errors(self.url):
            system, root = file_system(self.url)
            system.invalidate_cache()
            target = f"{root.rstrip('/')}/{name}"
            if system.exists(target):
                system.rm(target, recursive=True)
