"""Atomic writes of files and directories, JSON readers with clear errors, and checksums."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UsageError

_REPLACED = ".replaced"
"""Suffix of a directory that `replace_directory` has moved away."""


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
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
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
    target = target.expanduser().absolute()
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


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises `UsageError` if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}).") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model directory; raises `UsageError` if it is missing or not a JSON object."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise UsageError(f"{folder / 'config.json'}: is not a JSON object, so it is not a model configuration.")
    return config


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; the Hub identifies large files by it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
