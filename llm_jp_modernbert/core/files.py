"""Atomic writes of files and directories, locks, bounded and validated JSON, and checksums."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_REPLACED = ".replaced"
"""Suffix of a directory that `replace_directory` has moved away."""

JSON_LIMIT = 64 * 2**20
"""Largest JSON file in bytes that is parsed: a file from elsewhere must not fill the memory."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file atomically: readers see the old content or the new, never a part. Text is encoded as UTF-8."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_vacant(target: Path, option: str = "") -> None:
    """Raises `UsageError` unless a directory is missing or empty; the message names the `option`, such as `--out`."""
    lock_file = f".{target.resolve().name}.lock"
    if target.exists() and (not target.is_dir() or any(path.name != lock_file for path in target.iterdir())):
        raise UsageError(f"{option} {target} is not empty. Name a new directory.".lstrip())


@contextmanager
def atomic_directory(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary directory next to `target` and renames it to `target` if the block succeeds.

    Args:
        target: the directory to write; missing parents are created.
        replace: whether an existing directory is replaced; if not, `target` must not exist or be empty.

    Raises:
        UsageError: `target` holds something and `replace` is false.

    Example:
        >>> with atomic_directory(Path("out")) as folder:
        ...     (folder / "config.json").write_text("{}")
    """
    # A symbolic link stays: the directory that it names is written.
    target = Path(os.path.expanduser(target)).resolve()
    if not replace:
        check_vacant(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        replace_directory(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_directory(new: Path, target: Path) -> None:
    """Renames a finished directory to `target`; an existing `target` is removed afterwards.

    A process killed in between leaves the old directory under a hidden name: see `recover_replaced`.
    """
    replaced = target.with_name(f".{target.name}{_REPLACED}")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        os.replace(target, replaced)
    try:
        os.replace(new, target)
    except OSError:
        if replaced.exists():
            os.replace(replaced, target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def recover_replaced(parent: Path) -> None:
    """Restores directories of `parent` that `replace_directory` moved away before its process was killed."""
    for replaced in parent.glob(f".*{_REPLACED}"):
        target = parent / replaced.name.removeprefix(".").removesuffix(_REPLACED)
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.replace(replaced, target)


def files_by_path(folder: Path) -> dict[str, Path]:
    """All files of a directory and its subdirectories by relative POSIX path, sorted."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


class LockedError(UsageError):
    """Another process holds a lock."""


@contextmanager
def lock(target: Path, job: str) -> Iterator[None]:
    """Holds an exclusive lock on a file or directory while the block runs.

    The lock is a hidden file next to `target`, or in it if its parent is read-only, and ends with the process, so a
    killed job blocks nothing. Parents of `target` are created, and removed if they stay empty.

    Args:
        target: the file or directory that only one process may write; it need not exist.
        job: what the holder does, for the message, such as "pretrain".

    Raises:
        LockedError: another process holds the lock.
        UsageError: the file of the lock cannot be created.
    """
    from filelock import FileLock, Timeout

    # Symbolic links to one directory share its lock.
    target = Path(os.path.expanduser(target)).resolve()
    missing = [parent for parent in target.parents if not parent.exists()]
    # A mounted volume may be the only directory that may be written.
    folder = target if target.is_dir() and not os.access(target.parent, os.W_OK) else target.parent
    file = folder / f".{target.name}.lock"
    held = FileLock(file, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # filelock reports some files that cannot be created as locked.
        file.touch()
        held.acquire()
    except Timeout:
        message = f"{target}: another {job} is writing it. Wait until it has finished, or name another directory."
        raise LockedError(message) from None
    except OSError as error:
        raise UsageError(
            f"{target}: cannot be written ({error.strerror or error}). Name a directory that you may write to, on a "
            "disk with free space."
        ) from error
    try:
        yield
    finally:
        # Removed while it is held: filelock does not accept a lock on a file that is gone.
        with suppress(OSError):
            os.unlink(held.lock_file)
        held.release()
        # A job that wrote nothing leaves nothing.
        with suppress(OSError):
            for parent in missing:
                parent.rmdir()


def read_json(path: Path, kind: Any = Any, *, max_bytes: int = JSON_LIMIT) -> Any:
    """The content of a JSON file, validated.

    Args:
        path: a UTF-8 file.
        kind: the expected type: a `typing_extensions.TypedDict`, a dataclass, `list[...]` or `dict[str, ...]`. Unknown
            keys are ignored. `Any` accepts all JSON.
        max_bytes: size limit in bytes.

    Raises:
        UsageError: the file is missing, too large, nested too deeply, not JSON, or of another type.

    Example:
        >>> read_json(Path("trainer_state.json"), dict[str, Any])["global_step"]
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    return parse_json(content, str(path), kind, max_bytes=max_bytes)


def write_json(path: Path, value: Any) -> None:
    """Writes a readable JSON file as a whole; numbers that are not finite are a `ValueError`."""
    write_whole(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def parse_json(content: str | bytes, source: str, kind: Any = Any, *, max_bytes: int = JSON_LIMIT) -> Any:
    """JSON text, validated as in `read_json`; errors begin with `source`."""
    from pydantic import ValidationError

    if len(content) > max_bytes:
        raise UsageError(f"{source}: is larger than {max_bytes / 2**20:g} MiB.")
    try:
        return _adapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place, problem = ".".join(str(part) for part in first["loc"]), f"{first['msg']}."
        if first["type"] == "json_invalid":
            problem = f"cannot be read ({first['msg']})."
        elif first["type"] == "dict_type" and not place:
            problem = "is not a JSON object."
        raise UsageError(f"{source}: {f'{place}: ' if place else ''}{problem}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model directory; raises `UsageError` if it is missing or not a JSON object."""
    config: dict[str, Any] = read_json(folder / "config.json", dict[str, Any])
    return config


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; the Hub identifies large files by it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint(files: Sequence[Path]) -> str:
    """`sha256:` and 16 digits over the contents of files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(bytes.fromhex(sha256(path)))
    return f"sha256:{digest.hexdigest()[:16]}"
