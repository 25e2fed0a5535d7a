"""Files that are written whole, JSON that is read with a word on what is wrong with it, and sums of files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    from hashlib import _Hash

_PART = 1 << 22


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file, text in UTF-8, so that it is there as a whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UsageError: it is missing, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}).") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model's folder.

    Raises:
        UsageError: it is missing, or no JSON object.
    """
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise UsageError(f"{folder / 'config.json'}: holds no JSON object, so it is no model's configuration.")
    return config


def sha256(path: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal; the Hub names large files by it."""
    return _fed(path, hashlib.sha256())


def git_blob(path: Path) -> str:
    """The id that git gives to a file's content, in hexadecimal; the Hub names small files by it."""
    return _fed(path, hashlib.sha1(f"blob {path.stat().st_size}\0".encode()))


def _fed(path: Path, digest: _Hash) -> str:
    with path.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.hexdigest()
