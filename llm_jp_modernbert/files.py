"""Files that are written whole, and sums of files, read in parts."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

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
