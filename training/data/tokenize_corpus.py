"""A corpus tokenised ahead of time: Arrow shards that training maps into memory, and a manifest of them.

A shard holds consecutive documents of one source file. It is written aside and renamed when it is complete, and noted
in a journal, so that a job that was stopped goes on behind the last complete shard and ends with the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import unicodedata
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError

from .readers import MANIFEST, Document, Problem, SourceError, find_files, is_tokenized, read_documents

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from rich.console import Console

    from .encoding import Encoder

DATA, TOKENIZER = "data", "tokenizer"
"""Folders of a tokenised corpus."""

_PROGRESS = ".progress"
_VERSION = 1
# Documents of a record batch, and characters that are handed to the encoder at once.
_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 256, 1_000_000
_NAMED_PROBLEMS = 5
_COUNTS = ("documents", "tokens", "characters", "bytes")


@dataclass(frozen=True)
class TokenizeOptions:
    """What is to be tokenised, and how.

    Attributes:
        files: files, folders and patterns of text.
        tokenizer: directory, repository, tokenizer.json or SentencePiece `.model`.
        out: directory to write.
        text_column: JSON key or column of the text.
        workers: processes that tokenise a file each.
        shard_tokens: a shard ends with the document that brings it to so many tokens.
        normalization: `none`, or the Unicode form that texts are brought to.
        strict: whether a row that is no document is an error.
    """

    files: tuple[str, ...]
    tokenizer: str
    out: Path
    text_column: str = "text"
    workers: int = 1
    shard_tokens: int = 50_000_000
    normalization: str = "none"
    strict: bool = False


@dataclass(frozen=True)
class _Job:
    """One source file."""

    path: str
    name: str
    out: str
    text_column: str
    shard_tokens: int
    normalization: str
    strict: bool
    threads: int


def tokenize_corpus(options: TokenizeOptions, console: Console) -> dict[str, Any]:
    """Tokenises a corpus, or goes on with one that was begun.

    Args:
        options: see there.
        console: where progress is shown.

    Returns:
        The manifest.

    Raises:
        ValueError: a file or the tokenizer cannot be read, a file is tokenised already, or `out` holds something else.
    """
    from llm_jp_modernbert.inference.loading import load_tokenizer

    from .encoding import vocabulary_hash

    paths = find_files(options.files)
    for path in paths:
        if is_tokenized(path, options.text_column):
            raise SourceError(
                f"{path}: tokenised already: it holds token ids, and no column {options.text_column!r}. Name the "
                "texts themselves, or their column with --text-column; train_data takes token ids as they are."
            )
    tokenizer = load_tokenizer(options.tokenizer)
    header = {
        "version": _VERSION,
        "tokenizer": {
            "name": Path(options.tokenizer).name,
            "vocabulary": len(tokenizer),
            "sha256": vocabulary_hash(tokenizer),
        },
        "text_column": options.text_column,
        "normalization": options.normalization,
        "shard_tokens": options.shard_tokens,
        "sources": [{"path": path, "size": os.path.getsize(path)} for path in paths],
    }
    out = options.out
    finished = _begin(out, header)
    if finished is not None:
        return finished
    tokenizer.save_pretrained(out / TOKENIZER)
    cores = os.cpu_count() or 1
    workers = max(1, min(options.workers, len(paths)))
    jobs = [
        _Job(
            path,
            f"{number:05d}-{Path(path).name.split('.')[0]}",
            str(out),
            options.text_column,
            options.shard_tokens,
            options.normalization,
            options.strict,
            max(1, cores // workers),
        )
        for number, path in enumerate(paths)
    ]
    _run(jobs, workers, console)
    manifest: dict[str, Any] = {**header, "sources": [_summary(job) for job in jobs]}
    manifest["totals"] = {
        name: sum(source[name] for source in manifest["sources"]) for name in (*_COUNTS, "blank_rows", "broken_rows")
    }
    if not manifest["totals"]["documents"]:
        raise UsageError(f"{options.files[0]}: no document. The files are empty, or every text in them is blank.")
    _write(out / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
    shutil.rmtree(out / _PROGRESS)
    return manifest


def _begin(out: Path, header: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a corpus that is complete; None where there is still something to do."""
    begun = out / _PROGRESS / "header.json"
    known = out / MANIFEST if (out / MANIFEST).is_file() else begun
    if known.is_file():
        saved = json.loads(known.read_text(encoding="utf-8"))
        sources = [{key: source[key] for key in ("path", "size")} for source in saved["sources"]]
        changed = [key for key in header if {**saved, "sources": sources}.get(key) != header[key]]
        if changed:
            raise UsageError(
                f"{out} holds a corpus that was tokenised otherwise ({', '.join(changed)} differ). Name another --out."
            )
        return saved if known.name == MANIFEST else None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty, and no tokenised corpus. Name another --out.")
    (out / DATA).mkdir(parents=True)
    begun.parent.mkdir()
    _write(begun, json.dumps(header, ensure_ascii=False))
    return None


def _run(jobs: list[_Job], workers: int, console: Console) -> None:
    from llm_jp_modernbert.core.progress import progress_bar

    began = time.perf_counter()
    read = dict.fromkeys(_COUNTS, 0)
    with progress_bar(console, "{task.fields[rate]}") as bar:
        task = bar.add_task("tokenising", total=sum(max(1, os.path.getsize(job.path)) for job in jobs), rate="")

        def note(counts: dict[str, int]) -> None:
            seconds = time.perf_counter() - began
            for name in _COUNTS:
                read[name] += counts[name]
            rate = f"{read['documents']:,} documents, {read['bytes'] / 1e6 / seconds:,.1f} MB/s, "
            bar.update(task, rate=f"{rate}{read['tokens'] / seconds:,.0f} tokens/s")

        if workers == 1:
            for job in jobs:
                for counts in _tokenize_file(job):
                    note(counts)
                bar.advance(task, os.path.getsize(job.path))
            return
        # Started afresh: a fork would inherit the threads of the tokenizers library in some state or other.
        context = get_context("spawn")
        stop = context.Event()
        with context.Manager() as manager:
            queue = manager.Queue()
            pool = ProcessPoolExecutor(workers, context, _begin_worker, (stop,))
            try:
                running: dict[Future[None], _Job] = {pool.submit(_in_worker, job, queue): job for job in jobs}
                while running:
                    for future in [future for future in running if future.done()]:
                        job = running.pop(future)
                        future.result()
                        bar.advance(task, os.path.getsize(job.path))
                    while not queue.empty():
                        note(queue.get())
                    time.sleep(0.1)
                while not queue.empty():
                    note(queue.get())
            except BaseException:
                stop.set()
                raise
            finally:
                # Waits for the batches in hand, so that nobody writes any more when the next job goes on from here.
                pool.shutdown(cancel_futures=True)


_stop: Event
"""Of a worker: set when it is to end."""


def _begin_worker(stop: Event) -> None:
    """Ctrl-C reaches every process of a terminal: this one leaves it to its parent, which sets the event."""
    global _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _stop = stop


def _in_worker(job: _Job, queue: Any) -> None:
    # The pool hands out a few files ahead, which can be cancelled no more.
    if _stop.is_set():
        return
    for counts in _tokenize_file(job):
        queue.put(counts)
        if _stop.is_set():
            return


def _tokenize_file(job: _Job) -> Iterator[dict[str, int]]:
    """Tokenises what is left of a file, and tells what it has read after every batch."""
    journal = _journal(job)
    if journal and journal[-1]["last"]:
        return
    encoder = _encoder(job.out, job.threads)
    problems: list[Problem] = []

    def note(problem: Problem) -> None:
        if job.strict and problem.reason != "blank":
            raise SourceError(str(problem))
        problems.append(problem)

    start = journal[-1]["end"] if journal else 0
    shard = _Shard(job, len(journal))
    try:
        for batch in _batches(read_documents(job.path, job.text_column, start, note)):
            texts = [_normalized(document.text, job.normalization) for document in batch]
            encoded = encoder.encode(texts)
            for document, text, ids in zip(batch, texts, encoded, strict=True):
                shard.add(document, len(text), ids)
                if shard.counts["tokens"] >= job.shard_tokens:
                    shard.finish(problems, last=False)
                    shard = _Shard(job, shard.number + 1)
                    problems.clear()
            yield {
                "documents": len(batch),
                "tokens": sum(map(len, encoded)),
                "characters": sum(map(len, texts)),
                "bytes": sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
            }
        shard.finish(problems, last=True)
    finally:
        shard.discard()


@cache
def _encoder(out: str, threads: int) -> Encoder:
    """One for all files that a process takes: making it costs seconds."""
    from transformers import AutoTokenizer

    from .encoding import Encoder

    return Encoder(AutoTokenizer.from_pretrained(Path(out) / TOKENIZER), threads)


class _Shard:
    """One Arrow file that is being written."""

    def __init__(self, job: _Job, number: int) -> None:
        import pyarrow

        self.job, self.number = job, number
        self.counts = dict.fromkeys(_COUNTS, 0)
        self._end = 0
        self._path = Path(job.out) / DATA / f"{job.name}-{number:05d}.arrow"
        self._aside = Path(job.out) / _PROGRESS / self._path.name
        columns = {"input_ids": pyarrow.list_(pyarrow.int32()), "characters": pyarrow.int32(), "row": pyarrow.int32()}
        self._schema = pyarrow.schema(list(columns.items()))
        self._writer: Any = pyarrow.ipc.new_stream(str(self._aside), self._schema)
        self._rows: list[tuple[Any, int, int]] = []

    def add(self, document: Document, characters: int, ids: Any) -> None:
        self._rows.append((ids, characters, document.row))
        self._end = document.end
        self.counts["documents"] += 1
        self.counts["tokens"] += len(ids)
        self.counts["characters"] += characters
        self.counts["bytes"] += len(document.text.encode("utf-8", "surrogatepass"))
        if len(self._rows) == _BATCH_DOCUMENTS:
            self._flush()

    def finish(self, problems: list[Problem], last: bool) -> None:
        """Closes the shard, puts it in its place and notes it; one without a document is only noted."""
        self._flush()
        self._writer.close()
        if self.counts["documents"]:
            os.replace(self._aside, self._path)
        broken = [str(problem) for problem in problems if problem.reason != "blank"]
        entry = {
            "file": self._path.name if self.counts["documents"] else None,
            **self.counts,
            "blank_rows": len(problems) - len(broken),
            "broken_rows": len(broken),
            "problems": broken[:_NAMED_PROBLEMS],
            "end": self._end,
            "last": last,
        }
        with open(_journal_path(self.job), "a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry, ensure_ascii=False) + "\n")
            journal.flush()
            os.fsync(journal.fileno())

    def discard(self) -> None:
        """Leaves nothing half-written behind."""
        self._writer.close()
        self._aside.unlink(missing_ok=True)

    def _flush(self) -> None:
        import numpy as np
        import pyarrow

        if not self._rows:
            return
        ids, characters, rows = zip(*self._rows, strict=True)
        offsets = np.concatenate([[0], np.cumsum([len(some) for some in ids])]).astype(np.int32)
        lists = pyarrow.ListArray.from_arrays(pyarrow.array(offsets), pyarrow.array(np.concatenate(ids)))
        columns = [lists, pyarrow.array(characters, pyarrow.int32()), pyarrow.array(rows, pyarrow.int32())]
        self._writer.write_batch(pyarrow.record_batch(columns, schema=self._schema))
        self._rows = []


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += document.characters
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _normalized(text: str, form: str) -> str:
    return text if form == "none" else unicodedata.normalize(form, text)  # type: ignore[arg-type]


def _journal_path(job: _Job) -> Path:
    return Path(job.out) / _PROGRESS / f"{job.name}.jsonl"


def _journal(job: _Job) -> list[dict[str, Any]]:
    """The shards that are complete; a line that was cut off by the end of a process is none, and is cut away."""
    path = _journal_path(job)
    if not path.is_file():
        return []
    content = path.read_bytes()
    entries, whole = list[dict[str, Any]](), 0
    for line in content.splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        entries.append(entry)
        whole += len(line)
    if whole < len(content):
        # Otherwise the next shard's line would be glued to it. Shards that were noted behind it are made again.
        os.truncate(path, whole)
    return entries


def _summary(job: _Job) -> dict[str, Any]:
    journal = _journal(job)
    sums = {name: sum(entry[name] for entry in journal) for name in (*_COUNTS, "blank_rows", "broken_rows")}
    return {
        "path": job.path,
        "size": os.path.getsize(job.path),
        **sums,
        "problems": [problem for entry in journal for problem in entry["problems"]][:_NAMED_PROBLEMS],
        "shards": [
            {"file": entry["file"], **{name: entry[name] for name in _COUNTS}} for entry in journal if entry["file"]
        ],
    }


def _write(path: Path, content: str) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(content, encoding="utf-8")
    os.replace(aside, path)
