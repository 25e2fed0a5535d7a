"""The layout of a tokenized corpus and the types of its manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from typing_extensions import NotRequired, TypedDict

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.files import parse_json

MANIFEST = "manifest.json"
"""The file that describes a tokenized corpus."""
DATA, TOKENIZER = "data", "tokenizer"
"""Directories of its shards and of its tokenizer."""
PROGRESS = ".progress"
"""Directory of an unfinished corpus, removed at the end."""
HEADER = "header.json"
"""The file in it that describes an unfinished corpus."""
PART = "part.json"
"""The file that describes a finished part, in the directory of the part below `PROGRESS`."""

MAX_BYTES = 1 << 30
"""Largest manifest in bytes. One with 100,000 source files has 50 MB."""


class TextCounts(TypedDict):
    """Counts of a shard."""

    documents: int
    tokens: int
    characters: int
    bytes: int


class Counts(TextCounts):
    """Counts of a corpus or of a source file."""

    blank_rows: int
    broken_rows: int


class ShardFile(TypedDict):
    """Name of the file of a shard."""

    file: str


class ShardEntry(ShardFile, TextCounts):
    """A shard in the manifest."""


class SourceFile(TypedDict):
    """A source file of an unfinished corpus; its size is in bytes."""

    path: str
    size: int


class SourceState(TypedDict):
    """Identifies the content of a source file.

    Attributes:
        size: its size in bytes.
        modified: time stamp of a local file in nanoseconds.
        sha256: SHA-256 of a local file.
        version: version of a remote file that its storage states, such as an ETag.
    """

    size: int
    modified: NotRequired[int]
    sha256: NotRequired[str]
    version: NotRequired[str]


class KnownSourceFile(SourceFile):
    """A source file and its state; see `SourceState`."""

    modified: NotRequired[int]
    sha256: NotRequired[str]
    version: NotRequired[str]


class SourceEntry(KnownSourceFile, Counts):
    """A source file in the manifest."""

    problems: list[str]
    shards: list[ShardEntry]


class TokenizerEntry(TypedDict):
    """The tokenizer of a corpus, with its `vocabulary_hash`."""

    name: str
    vocabulary: int
    sha256: str


class FileList(TypedDict):
    """Number of the source files of a whole corpus, and the SHA-256 of their paths."""

    count: int
    sha256: str


class Settings(TypedDict):
    """How a corpus is made."""

    version: int
    tokenizer: TokenizerEntry
    text_column: str
    # Manifests of earlier versions lack it.
    normalization: NotRequired[str]
    shard_tokens: int


class Header(Settings):
    """Describes an unfinished corpus."""

    sources: list[SourceFile]


class Manifest(Settings):
    """Describes a finished corpus."""

    sources: list[SourceEntry]
    totals: Counts


class PartHeader(Header):
    """Describes an unfinished part of a corpus and its own sources; `files` are those of the whole corpus."""

    files: FileList


class Part(Manifest):
    """Describes a finished part of a corpus and its own sources; `files` are those of the whole corpus."""

    files: FileList


class Origin(TypedDict):
    """The part of a manifest that says how a corpus was made; empty if it is that of something else."""

    tokenizer: NotRequired[TokenizerEntry]
    normalization: NotRequired[str]


def scan_manifest(file: Path, visit: Callable[[SourceEntry], object] = lambda source: None) -> Origin:
    """Reads the manifest of a corpus without keeping its source files in memory.

    Args:
        file: the manifest.
        visit: called with each source file, which is not validated.

    Raises:
        UsageError: the file is missing, too large or not JSON, or a value of the result has another type.
    """
    nothing: dict[str, Any] = {}

    def visited(value: dict[str, Any]) -> dict[str, Any]:
        if "shards" not in value:
            return value
        visit(cast(SourceEntry, value))
        return nothing

    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES / 2**20:g} MiB")
        manifest = json.loads(file.read_text(encoding="utf-8"), object_hook=visited)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file}: cannot be read ({first_line(error)}).") from error
    origin: Origin = parse_json(json.dumps(manifest), str(file), Origin)
    return origin
