"""Tokenize one source file into shards of a tokenized corpus, and resume after the last complete shard."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from typing_extensions import NotRequired

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import parse_json, sha256
from llm_jp_modernbert.core.text_files import is_remote, source_name

from .manifest import DATA, Counts, SourceEntry, SourceState, TextCounts
from .parts import sum_counts
from .remote import RemoteDirectory, remote_size, remote_version

if TYPE_CHECKING:
    from .encoding import Encoder
    from .readers import BadRow, Document

BATCH_CHARACTERS = 1_000_000
"""Characters that are passed to the encoder at once."""

_ROWS_PER_RECORD_BATCH = 256
_MAX_LISTED_PROBLEMS = 5


@dataclass(frozen=True)
class Place:
    """Where a job writes.

    Attributes:
        out: directory of the corpus.
        progress: directory of journals and unfinished shards.
        tokenizer: directory of the tokenizer. Each part has its own, because parts are written at the same time.
        manifest: the file that is written last.
        remote: the remote directory of which `out` is a local copy, if there is one.
    """

    out: Path
    progress: Path
    tokenizer: Path
    manifest: Path
    remote: RemoteDirectory | None = None

    def upload(self, *paths: Path) -> None:
        """Uploads complete files, if the corpus is remote."""
        if self.remote is not None:
            for path in paths:
                self.remote.upload(path)


@dataclass(frozen=True)
class Job:
    """One source file.

    Attributes:
        path: the file.
        size: its size in bytes.
        name: beginning of the names of its shards.
        place: where the shards are written.
        threads: number of threads of the tokenizer.
        text_column, normalization, strict, shard_tokens: see `TokenizeOptions`.
    """

    path: str
    size: int
    name: str
    place: Place
    threads: int
    text_column: str
    normalization: Literal["none", "NFC", "NFKC"]
    strict: bool
    shard_tokens: int

    @property
    def journal(self) -> Path:
        """The file that lists the complete shards."""
        return self.place.progress / f"{self.name}.jsonl"


class _JournalEntry(Counts):
    """A complete shard; `file` is None if it has no document, and `end` is its last row."""

    file: str | None
    problems: list[str]
    end: int
    last: bool
    source: NotRequired[SourceState]


def tokenize_file(job: Job) -> Iterator[Counter[str]]:
    """Tokenizes the rest of a file; yields counts after every batch, and its `file_bytes` at the end."""
    from .blocks import normalize
    from .readers import Document, SourceError, read_rows

    journal = _read_journal(job)
    state = journal[-1].get("source") if journal else None
    if state is not None:
        check_unchanged(job.path, state)
    if not journal or not journal[-1]["last"]:
        state = state or _state(job.path)
        encoder = _encoder(job.place.tokenizer, job.threads)
        bad_rows: list[BadRow] = []

        def documents() -> Iterator[Document]:
            for row in read_rows(job.path, job.text_column, journal[-1]["end"] if journal else 0):
                if isinstance(row, Document):
                    yield row
                elif job.strict and not row.is_blank:
                    raise SourceError(str(row))
                else:
                    bad_rows.append(row)

        shard = _Shard(job, len(journal), state)
        try:
            for batch in _batches(documents()):
                texts = [normalize(document.text, job.normalization) for document in batch]
                encoded = encoder.encode(texts)
                for document, text, ids in zip(batch, texts, encoded, strict=True):
                    shard.add(document, len(text), ids)
                    if shard.counts["tokens"] >= job.shard_tokens:
                        # The batch may have read bad rows beyond this document, where a resumed job starts.
                        shard.finish([row for row in bad_rows if row.row <= document.end], last=False)
                        bad_rows[:] = [row for row in bad_rows if row.row > document.end]
                        shard = _Shard(job, shard.number + 1, state)
                yield Counter(
                    documents=len(batch),
                    tokens=sum(map(len, encoded)),
                    bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
                )
            check_unchanged(job.path, state)
            shard.finish(bad_rows, last=True)
        finally:
            shard.discard()
    yield Counter(file_bytes=job.size)


@cache
def _encoder(tokenizer: Path, threads: int) -> Encoder:
    """The encoder of a process, shared by all its files: making it takes seconds."""
    from transformers import AutoTokenizer

    from .encoding import Encoder

    return Encoder(AutoTokenizer.from_pretrained(tokenizer), threads)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += document.characters
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class _Shard:
    """An Arrow file that is being written."""

    def __init__(self, job: Job, number: int, state: SourceState) -> None:
        import pyarrow

        self.number = number
        self._state = state
        self.counts = dict.fromkeys(TextCounts.__annotations__, 0)
        self._job = job
        self._end = 0
        self._path = job.place.out / DATA / f"{job.name}-{number:05d}.arrow"
        self._temporary = job.journal.with_name(self._path.name)
        columns = {"input_ids": pyarrow.list_(pyarrow.int32()), "characters": pyarrow.int32(), "row": pyarrow.int32()}
        self._schema = pyarrow.schema(list(columns.items()))
        self._writer: Any = pyarrow.ipc.new_stream(str(self._temporary), self._schema)
        self._is_open = True
        self._rows: list[tuple[Any, int, int]] = []

    def add(self, document: Document, characters: int, ids: Any) -> None:
        self._rows.append((ids, characters, document.row))
        self._end = document.end
        self.counts["documents"] += 1
        self.counts["tokens"] += len(ids)
        self.counts["characters"] += characters
        self.counts["bytes"] += len(document.text.encode("utf-8", "surrogatepass"))
        if len(self._rows) == _ROWS_PER_RECORD_BATCH:
            self._write_rows()

    def finish(self, bad_rows: list[BadRow], last: bool) -> None:
        """Closes the file, renames it and adds it to the journal; a shard without documents is only journaled."""
        self._write_rows()
        self._writer.close()
        self._is_open = False
        if self.counts["documents"]:
            os.replace(self._temporary, self._path)
            place = self._job.place
            place.upload(self._path)
            if place.remote is not None:
                self._path.unlink()
        unreadable = [str(row) for row in bad_rows if not row.is_blank]
        entry: _JournalEntry = {
            "file": self._path.name if self.counts["documents"] else None,
            "documents": self.counts["documents"],
            "tokens": self.counts["tokens"],
            "characters": self.counts["characters"],
            "bytes": self.counts["bytes"],
            "blank_rows": len(bad_rows) - len(unreadable),
            "broken_rows": len(unreadable),
            "problems": unreadable[:_MAX_LISTED_PROBLEMS],
            "end": self._end,
            "last": last,
            "source": self._state,
        }
        with open(self._job.journal, "a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry, ensure_ascii=False) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self._job.place.upload(self._job.journal)

    def discard(self) -> None:
        """Removes an unfinished file."""
        if self._is_open:
            # Closing writes to the file, which fails on a full disk.
            with suppress(OSError):
                self._writer.close()
        self._temporary.unlink(missing_ok=True)

    def _write_rows(self) -> None:
        import numpy as np
        import pyarrow

        if not self._rows:
            return
        ids, characters, rows = zip(*self._rows, strict=True)
        offsets = np.concatenate([[0], np.cumsum([len(document) for document in ids])]).astype(np.int32)
        lists = pyarrow.ListArray.from_arrays(pyarrow.array(offsets), pyarrow.array(np.concatenate(ids)))
        columns = [lists, pyarrow.array(characters, pyarrow.int32()), pyarrow.array(rows, pyarrow.int32())]
        self._writer.write_batch(pyarrow.record_batch(columns, schema=self._schema))
        self._rows = []


def _read_journal(job: Job) -> list[_JournalEntry]:
    """Returns the complete shards of a file; truncates the journal at a line that an interruption cut off."""
    if not job.journal.is_file():
        return []
    entries: list[_JournalEntry] = []
    valid_bytes = 0
    for line in job.journal.read_bytes().splitlines(keepends=True):
        try:
            entry = parse_json(line, str(job.journal), _JournalEntry)
        except UsageError:
            break
        if not line.endswith(b"\n"):
            break
        entries.append(entry)
        valid_bytes += len(line)
    # Shards recorded after that line are made again.
    os.truncate(job.journal, valid_bytes)
    return entries


def summary_of(job: Job) -> SourceEntry:
    """The entry of a tokenized file in the manifest."""
    journal = _read_journal(job)
    state = journal[-1].get("source") or {"size": job.size}
    summary = {
        "path": source_name(job.path),
        **state,
        **sum_counts(journal),
        "problems": [problem for entry in journal for problem in entry["problems"]][:_MAX_LISTED_PROBLEMS],
        "shards": [
            {"file": entry["file"], **{name: entry[name] for name in TextCounts.__annotations__}}
            for entry in cast("list[dict[str, Any]]", journal)
            if entry["file"]
        ],
    }
    return cast("SourceEntry", summary)


def size_of(path: str) -> int:
    """The size of a local or remote file, in bytes."""
    return remote_size(path) if is_remote(path) else os.path.getsize(path)


def _size_and_time(path: str) -> tuple[int, int]:
    status = os.stat(path)
    # Programs can restore the time of the content, but not that of the last change.
    return status.st_size, max(status.st_mtime_ns, status.st_ctime_ns)


def _state(path: str) -> SourceState:
    if is_remote(path):
        size, version = remote_version(path)
        return {"size": size, "version": version}
    size, modified = _size_and_time(path)
    return {"size": size, "modified": modified, "sha256": sha256(Path(path))}


def check_unchanged(path: str, before: SourceState) -> None:
    """Raises a `UsageError` if the content of a file has changed.

    The checksum of a local file is read only if its time stamp has changed.
    """
    if is_remote(path):
        if remote_version(path) != (before["size"], before["version"]):
            raise changed_error(path)
        return
    size, modified = _size_and_time(path)
    if (size, modified) == (before["size"], before["modified"]):
        return
    if size != before["size"] or sha256(Path(path)) != before["sha256"]:
        raise changed_error(path)


def changed_error(path: str) -> UsageError:
    """The error that a file has changed."""
    return UsageError(
        f"{path}: has changed since tokenize-corpus began to read it. Restore it, or name another --out to tokenize "
        "the new content."
    )
