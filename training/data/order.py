"""The order in which documents are read: a pure function of (data, seed), whose place in it is a few plain numbers.

A source is a list of shards, most often files. In every epoch of a source its shards come in another order; some of
them are open at a time, and give a document each in turn. Several sources are mixed by weight: the next document comes
from the source that has given the fewest characters for its weight, so that shares are those of text, whatever the
lengths of documents, and a source that ends begins its next epoch. Nothing here depends on ranks or workers.

`datasets` shuffles a stream through a buffer whose contents cannot be saved exactly; here the finer shuffling is done
within blocks (see `stream`), which are read again after a stop, so that a place is all that has to be remembered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .corpus import TokenizedCorpus
from .readers import Document, Problem, SourceError, read_documents

# Keeps this draw apart from others of the same seed.
_SHARDS = 3


class Shard(Protocol):
    """A part of a source that is read from its beginning, or on from a row."""

    @property
    def name(self) -> str:
        """What it is called in messages and in a run's state, such as the path of a file."""

    def read(self, start: int, problems: Callable[[Problem], Any] | None) -> Iterator[Document]:
        """Its documents after the first `start` rows; see `read_documents`."""


@dataclass(frozen=True)
class FileShard:
    """A local file."""

    name: str
    text_column: str = "text"

    def read(self, start: int, problems: Callable[[Problem], Any] | None) -> Iterator[Document]:
        """See `Shard`."""
        return read_documents(self.name, self.text_column, start, problems)


@dataclass(frozen=True)
class MemoryShard:
    """Documents in memory, tokenised already; each counts as many characters as it has tokens."""

    corpus: TokenizedCorpus
    name: str = "memory"

    def read(self, start: int, problems: Callable[[Problem], Any] | None) -> Iterator[Document]:
        """See `Shard`."""
        for index in range(start, len(self.corpus)):
            ids = self.corpus.document(index)
            yield Document("", self.name, index + 1, index + 1, len(ids), ids)


@dataclass(frozen=True)
class Source:
    """A part of the training text.

    Attributes:
        shards: its parts, at least one.
        weight: its share of the characters among several sources.
        min_characters: shorter documents are left out.
        max_characters: longer ones, too, where it is given.
    """

    shards: Sequence[Shard]
    weight: float = 1.0
    min_characters: int = 0
    max_characters: int | None = None

    def takes(self, document: Document) -> bool:
        """Whether a document is of the wanted length."""
        return self.min_characters <= document.characters <= (self.max_characters or document.characters)


@dataclass(frozen=True)
class Place:
    """Which document of which epoch: the numbers that identify a sample.

    Attributes:
        source: number of the source.
        epoch: of that source, from 0.
        shard: number of the shard in the source.
        row: of the document in the shard, from 1.
    """

    source: int
    epoch: int
    shard: int
    row: int


class DocumentOrder:
    """Documents of one or several sources, for ever.

    Args:
        sources: what is read.
        seed: seed of the order of the shards.
        shuffle: whether the order of the shards changes; otherwise they come as they are listed.
        interleave: shards that are open at a time.
        problems: is told of rows that are no documents, and counts of them are nobody else's; None makes them errors.
        state: a place to read on from, as `state()` gave it.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        seed: int,
        shuffle: bool = True,
        interleave: int = 8,
        problems: Callable[[Problem], Any] | None = None,
        state: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        self._readers = [
            _SourceReader(source, number, seed, shuffle, interleave, problems) for number, source in enumerate(sources)
        ]
        for reader, saved in zip(self._readers, state or (), strict=state is not None):
            reader.load(saved)

    def next(self) -> tuple[Place, Document] | None:
        """The next document; None where the epoch of an only source ends.

        Raises:
            SourceError: a source gave no document in a whole epoch, or see `read_documents`.
        """
        if len(self._readers) == 1:
            return self._readers[0].next()
        reader = min(self._readers, key=lambda reader: reader.characters / reader.source.weight)
        # An epoch that ends is followed by the next, which gives a document or raises.
        return reader.next() or reader.next()

    def state(self) -> list[dict[str, Any]]:
        """The place after the last document, as plain values."""
        return [reader.state() for reader in self._readers]


class _SourceReader:
    def __init__(
        self,
        source: Source,
        number: int,
        seed: int,
        shuffle: bool,
        interleave: int,
        problems: Callable[[Problem], Any] | None,
    ) -> None:
        self.source = source
        self.number = number
        self.characters = 0
        self._seed, self._shuffle, self._interleave, self._problems = seed, shuffle, interleave, problems
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self._epoch = epoch
        self._opened = 0
        self._turn = 0
        self._given = 0
        # Of each open shard its number and how many of its rows were read.
        self._open: list[list[int]] = []
        self._iterators: list[Iterator[Document]] = []
        shards = len(self.source.shards)
        draw = np.random.default_rng((_SHARDS, self._seed, self.number, epoch))
        self._order = draw.permutation(shards).tolist() if self._shuffle else list(range(shards))

    def next(self) -> tuple[Place, Document] | None:
        while True:
            while len(self._open) < self._interleave and self._opened < len(self._order):
                self._open_shard([self._order[self._opened], 0])
                self._opened += 1
            if not self._open:
                if not self._given:
                    raise SourceError(_nothing(self.source))
                self._begin(self._epoch + 1)
                return None
            self._turn %= len(self._open)
            document = next(self._iterators[self._turn], None)
            if document is None:
                del self._open[self._turn], self._iterators[self._turn]
                continue
            opened = self._open[self._turn]
            opened[1] = document.end
            self._turn += 1
            if self.source.takes(document):
                self._given += 1
                self.characters += document.characters
                return Place(self.number, self._epoch, opened[0], document.row), document

    def _open_shard(self, opened: list[int]) -> None:
        self._open.append(opened)
        self._iterators.append(self.source.shards[opened[0]].read(opened[1], self._problems))

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "opened": self._opened,
            "open": [list(opened) for opened in self._open],
            "turn": self._turn,
            "given": self._given,
            "characters": self.characters,
        }

    def load(self, state: dict[str, Any]) -> None:
        self._begin(state["epoch"])
        for opened in state["open"]:
            self._open_shard(list(opened))
        self._opened, self._turn = state["opened"], state["turn"]
        self._given, self.characters = state["given"], state["characters"]


def shard_list(source: Source) -> dict[str, Any]:
    """Which shards a source has and in which order, short enough for a run's state.

    Returns:
        Their `count` and the `sha256` of their names, without what all of them begin with: a folder may be moved.
    """
    _, names = _common(source)
    return {"count": len(names), "sha256": _sha256(names)}


def changed_shards(saved: Sequence[Mapping[str, Any]], sources: Sequence[Source]) -> str | None:
    """What is another list of shards than a checkpoint's, as a sentence's beginning; None where all are the same.

    Args:
        saved: of each source, as `shard_list` gave it.
        sources: that there are now.
    """
    if len(saved) != len(sources):
        return f"the sources are not those of the checkpoint ({len(saved)} then, {len(sources)} now)"
    for before, source in zip(saved, sources, strict=True):
        if before == shard_list(source):
            continue
        place, names = _common(source)
        then, now = before["count"], len(names)
        what = f"{then:,} then, {now:,} now"
        if then == now:
            what = f"{then:,} then and now, but of other names or in another order"
        elif then < now and before["sha256"] == _sha256(names[:then]):
            # Of a list that has only grown at its end the new files are known.
            what += f"; the first new one is {names[then]}"
        return f"the files of {place} are not those of the checkpoint ({what})"
    return None


def _common(source: Source) -> tuple[str, list[str]]:
    """The folder that the names of a source's shards share, and the rest of each."""
    parts = [shard.name.split("/") for shard in source.shards]
    folders = [part[:-1] for part in parts]
    levels = enumerate(zip(*folders, strict=False))
    shared = next((level for level, names in levels if len(set(names)) > 1), min(map(len, folders)))
    return "/".join(parts[0][:shared]) or source.shards[0].name, ["/".join(part[shared:]) for part in parts]


def _sha256(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _nothing(source: Source) -> str:
    names = source.shards[0].name if len(source.shards) == 1 else f"{source.shards[0].name} and the files beside it"
    if source.min_characters or source.max_characters is not None:
        most = "any number" if source.max_characters is None else f"{source.max_characters:,}"
        return (
            f"{names}: no document of {source.min_characters:,} to {most} of characters. Change min_characters and "
            "max_characters of the source, or name other files."
        )
    return f"{names}: no document. The files are empty, or every text in them is blank."
