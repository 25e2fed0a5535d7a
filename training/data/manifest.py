"""The layout of a tokenized corpus and the types of its manifest."""

from __future__ import annotations

from typing_extensions import NotRequired, TypedDict

MANIFEST = "manifest.json"
"""The file that describes a tokenized corpus."""
DATA, TOKENIZER = "data", "tokenizer"
"""Directories of its shards and of its tokenizer."""
PROGRESS = ".progress"
"""Directory of an unfinished corpus, removed at the end."""


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


class ShardEntry(TextCounts):
    """A shard in the manifest."""

    file: str


class SourceFile(TypedDict):
    """A source file of an unfinished corpus; its size is in bytes."""

    path: str
    size: int


class SourceState(TypedDict):
    """Identifies the content of a source file; `modified` is its time stamp in nanoseconds."""

    size: int
    modified: int
    sha256: str


class SourceEntry(SourceFile, Counts):
    """A source file in the manifest; manifests of earlier versions lack `modified` and `sha256`."""

    modified: NotRequired[int]
    sha256: NotRequired[str]
    problems: list[str]
    shards: list[ShardEntry]


class TokenizerEntry(TypedDict):
    """The tokenizer of a corpus, with its `vocabulary_hash`."""

    name: str
    vocabulary: int
    sha256: str


class _Settings(TypedDict):
    version: int
    tokenizer: TokenizerEntry
    text_column: str
    # Manifests of earlier versions lack it.
    normalization: NotRequired[str]
    shard_tokens: int


class Header(_Settings):
    """Describes an unfinished corpus."""

    sources: list[SourceFile]


class Manifest(_Settings):
    """Describes a finished corpus."""

    sources: list[SourceEntry]
    totals: Counts
