"""The order in which documents are read: a pure function of the data and the seed, resumable from a few numbers.

A source is a list of shards, usually files. Every epoch shuffles the shards; a few of them are open at a time and give
one document each in turn. Several sources are mixed by weight: the next document comes from the source with the fewest
characters read per weight, so weights are shares of text whatever the lengths of documents. A source that ends starts
its next epoch. Nothing depends on ranks or workers.

The shuffle buffer of `datasets` cannot be saved exactly. Here documents are shuffled within blocks (see `blocks`),
which are read again on resuming, so the position in this order is the only state.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from typing_extensions import NotRequired, TypedDict

from .readers import BadRow, Document, Rows, SourceError, read_rows

# Distinguishes this draw from others with the same seed.
_SHARDS = 3
# Systems allow a process at least 256 open files. Beyond this number, a file is reopened for each document.
_MAX_OPEN_FILES = 64

# Bytes read to notice that files have changed: at each end of a file, and of all files of a source.
_MIN_SAMPLE, _MAX_SAMPLE = 1 << 12, 1 << 20
_MAX_READ = 1 << 30


RECORDED = "recorded-"
"""Prefix of a sample's `sha256` that comes from the manifest of a tokenized corpus."""


class Sample(TypedDict):
    """Size of a shard in bytes, and a part of the SHA-256 of its beginning and end.

    For a shard of a tokenized corpus: the bytes of its texts, and `RECORDED` with a sum of its entry in the manifest.
    """

    size: int
    sha256: str


class Position(TypedDict):
    """Position in a source: epoch, shards opened so far, index and number of rows read of each open shard, whose turn
    it is, and documents and characters so far."""

    epoch: int
    opened: int
    open: list[tuple[int, int]]
    turn: int
    given: int
    characters: int


class Shard(Protocol):
    """A part of a source, readable from any row."""

    @property
    def name(self) -> str:
        """Name in messages and in the state of a run, such as the path of a file."""

    def read(self, start: int) -> Rows:
        """Yields the documents and bad rows after the first `start` rows."""

    def sample(self, length: int) -> Sample:
        """Size in bytes and a sum of the first and last `length` bytes."""


@dataclass(frozen=True)
class FileShard:
    """A local file."""

    name: str
    text_column: str = "text"

    def read(self, start: int) -> Rows:
        """See `Shard`."""
        return read_rows(self.name, self.text_column, start)

    def sample(self, length: int) -> Sample:
        """See `Shard`."""
        with open(self.name, "rb") as file:
            digest = hashlib.sha256(file.read(length))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - length, min(size, length)))
            digest.update(file.read(length))
        return {"size": size, "sha256": digest.hexdigest()[:16]}


@dataclass(frozen=True)
class Source:
    """A part of the training data.

    Attributes:
        shards: its shards, at least one.
        weight: relative share of the characters among several sources.
        min_characters: shorter documents are skipped.
        max_characters: longer documents are skipped; None for no limit.
        excluded: `text_digest` of texts that are skipped.
    """

    shards: Sequence[Shard]
    weight: float = 1.0
    min_characters: int = 0
    max_characters: int | None = None
    excluded: Collection[bytes] = frozenset()

    def accepts(self, document: Document) -> bool:
        """Whether the length of a document is within the limits, and its text is not excluded.

        Raises:
            SourceError: texts are excluded, but the document has token ids alone.
        """
        if self.excluded and document.ids is not None:
            raise SourceError(
                f"{document.path}: holds token ids, which exclude_data cannot be compared with. Name files of texts."
            )
        if not self.min_characters <= document.characters <= (self.max_characters or document.characters):
            return False
        return not self.excluded or text_digest(document.text) not in self.excluded


def text_digest(text: str) -> bytes:
    """16 bytes that identify a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class Place:
    """The numbers that identify a document of an epoch.

    Attributes:
        source: index of the source.
        epoch: epoch of that source, from 0.
        shard: index of the shard in the source.
        row: row of the document in the shard, from 1.
    """

    source: int
    epoch: int
    shard: int
    row: int


class DocumentOrder:
    """An endless sequence of the documents of one or more sources.

    Args:
        sources: the sources.
        seed: seed of the order of the shards.
        shuffle: whether to shuffle the shards in every epoch; if not, they keep their listed order.
        interleave: number of shards that are open at a time.
        strict: whether an unreadable row is an error.
        state: position to resume from, as returned by `state()`.

    Attributes:
        bad_rows: blank and unreadable rows of first epochs since the caller last cleared the list.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        seed: int,
        shuffle: bool = True,
        interleave: int = 8,
        strict: bool = True,
        state: Sequence[Position] | None = None,
    ) -> None:
        self.bad_rows: list[BadRow] = []
        self._strict = strict
        self._readers = [
            _SourceReader(source, number, seed, shuffle, interleave) for number, source in enumerate(sources)
        ]
        for reader, saved in zip(self._readers, state or (), strict=state is not None):
            reader.load(saved)

    def next(self) -> tuple[Place, Document] | None:
        """Returns the next document, or None at the end of an epoch of a single source.

        Raises:
            SourceError: a whole epoch of a source has no document, a row is unreadable and `strict` is set, or see
                `read_rows`.
        """
        if len(self._readers) == 1:
            return self._next_of(self._readers[0])
        reader = min(self._readers, key=lambda reader: reader.characters / reader.source.weight)
        # After the end of an epoch, the next one gives a document or raises.
        return self._next_of(reader) or self._next_of(reader)

    def state(self) -> list[Position]:
        """The position after the last document, as JSON values."""
        return [reader.state() for reader in self._readers]

    def _next_of(self, reader: _SourceReader) -> tuple[Place, Document] | None:
        while isinstance(item := reader.next(), BadRow):
            if self._strict and not item.is_blank:
                raise SourceError(str(item))
            # Later epochs read the same rows again.
            if reader.epoch == 0:
                self.bad_rows.append(item)
        return item


class _SourceReader:
    def __init__(self, source: Source, number: int, seed: int, shuffle: bool, interleave: int) -> None:
        self.source = source
        self.characters = 0
        self._number, self._seed, self._shuffle, self._interleave = number, seed, shuffle, interleave
        self._begin_epoch(0)

    def _begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self._opened = 0
        self._turn = 0
        self._given = 0
        # Index and number of rows read of each open shard.
        self._open: list[list[int]] = []
        self._iterators: list[Rows | None] = []
        shards = len(self.source.shards)
        draw = np.random.default_rng((_SHARDS, self._seed, self._number, epoch))
        self._order = draw.permutation(shards).tolist() if self._shuffle else list(range(shards))

    def next(self) -> tuple[Place, Document] | BadRow | None:
        while True:
            while len(self._open) < self._interleave and self._opened < len(self._order):
                self._open_shard(self._order[self._opened], 0)
                self._opened += 1
            if not self._open:
                if not self._given:
                    raise SourceError(_no_document(self.source))
                self._begin_epoch(self.epoch + 1)
                return None
            self._turn %= len(self._open)
            shard, end = self._open[self._turn]
            rows = self._iterators[self._turn] or self.source.shards[shard].read(end)
            self._iterators[self._turn] = rows
            row = next(rows, None)
            if isinstance(row, BadRow):
                return row
            if row is None:
                del self._open[self._turn], self._iterators[self._turn]
                continue
            if len(self._open) > _MAX_OPEN_FILES:
                self._iterators[self._turn] = None
            self._open[self._turn][1] = row.end
            self._turn += 1
            if self.source.accepts(row):
                self._given += 1
                self.characters += row.characters
                return Place(self._number, self.epoch, shard, row.row), row

    def _open_shard(self, shard: int, start: int) -> None:
        self._open.append([shard, start])
        self._iterators.append(None)

    def state(self) -> Position:
        return {
            "epoch": self.epoch,
            "opened": self._opened,
            "open": [(shard, end) for shard, end in self._open],
            "turn": self._turn,
            "given": self._given,
            "characters": self.characters,
        }

    def load(self, state: Position) -> None:
        self._begin_epoch(state["epoch"])
        for shard, start in state["open"]:
            self._open_shard(shard, start)
        self._opened, self._turn = state["opened"], state["turn"]
        self._given, self.characters = state["given"], state["characters"]


class ShardList(TypedDict):
    """The shards of a source in the state of a run.

    Attributes:
        count: number of shards.
        sha256: of their names, relative to their common directory.
        samples: `sample` of each shard, if known.
    """

    count: int
    sha256: str
    samples: NotRequired[list[Sample]]


def shard_list(source: Source, sampled: bool = True) -> ShardList:
    """Describes the shards of a source.

    Args:
        source: the source.
        sampled: whether to read the first and last MiB of each file, or less if there are many files: 2 GiB in all.
    """
    _, names = _relative_names(source)
    described: ShardList = {"count": len(names), "sha256": _sha256(names)}
    if sampled:
        length = max(_MIN_SAMPLE, min(_MAX_SAMPLE, _MAX_READ // len(names)))
        described["samples"] = [shard.sample(length) for shard in source.shards]
    return described


def changed_shards(saved: Sequence[ShardList], now: Sequence[ShardList], sources: Sequence[Source]) -> str | None:
    """Describes how the shards differ from those of an earlier time; None if they are the same.

    Args:
        saved: `shard_list` of each source at an earlier time, such as that of a checkpoint.
        now: `shard_list` of each current source.
        sources: the current sources.
    """
    if len(saved) != len(sources):
        return f"the sources have changed ({len(saved)} then, {len(sources)} now)"
    for before, after, source in zip(saved, now, sources, strict=True):
        directory, names = _relative_names(source)
        if (before["count"], before["sha256"]) != (after["count"], after["sha256"]):
            change = f"{before['count']:,} then, {len(names):,} now"
            if before["count"] == len(names):
                change = f"{len(names):,} then and now, but with other names or in another order"
            elif before["count"] < len(names) and before["sha256"] == _sha256(names[: before["count"]]):
                change += f"; the first new one is {names[before['count']]}"
            return f"the files of {directory} have changed ({change})"
        samples = zip(source.shards, before.get("samples", ()), after.get("samples", ()), strict=False)
        for shard, then, current in samples:
            # Earlier versions read the shards of tokenized corpora.
            is_comparable = then["sha256"].startswith(RECORDED) == current["sha256"].startswith(RECORDED)
            if is_comparable and then != current:
                sizes = f"{then['size']:,} bytes then, {current['size']:,} now"
                return f"the content of {shard.name} has changed ({sizes})"
    return None


def _relative_names(source: Source) -> tuple[str, list[str]]:
    """The common directory of a source's shards, and their names relative to it."""
    names = [shard.name for shard in source.shards]
    directories = [directory.split("/") for directory in {name.rpartition("/")[0] for name in names}]
    levels = enumerate(zip(*directories, strict=False))
    shared = next((level for level, parts in levels if len(set(parts)) > 1), min(map(len, directories)))
    directory = "/".join(directories[0][:shared])
    # A name without a directory splits into one empty part.
    if directories == [[""]]:
        return names[0], names
    return directory or names[0], [name.split("/", shared)[shared] for name in names]


def _sha256(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _no_document(source: Source) -> str:
    name = source.shards[0].name
    if len(source.shards) > 1:
        name += f" and {len(source.shards) - 1:,} more files"
    if source.min_characters or source.max_characters is not None:
        limit = "any number of" if source.max_characters is None else f"{source.max_characters:,}"
        return (
            f"{name}: no document of {source.min_characters:,} to {limit} characters. Change min_characters and "
            "max_characters of the source, or name other files."
        )
    excluded = ", or excluded" if source.excluded else ""
    return f"{name}: no document. The files are empty, or every text in them is blank{excluded}."
