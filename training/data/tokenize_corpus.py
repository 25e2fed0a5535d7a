"""Tokenize a corpus ahead of time, into Arrow shards that training maps into memory, and a manifest.

A shard holds consecutive documents of one source file. It is written to a temporary file, renamed when complete, and
recorded in a journal. An interrupted job resumes after the last complete shard and produces the same bytes, unless a
source file has changed: that is an error.

Several machines can share the work: part I of N tokenizes every N-th file into the same directory (see `parts`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import check_vacant, files_by_path, lock, read_json, write_whole
from llm_jp_modernbert.core.text_files import is_remote, source_name

from .manifest import (
    DATA,
    HEADER,
    MANIFEST,
    MAX_BYTES,
    PART,
    PROGRESS,
    TOKENIZER,
    Header,
    Manifest,
    Part,
    PartHeader,
    SourceEntry,
    SourceState,
)
from .parts import PartName, check_no_parts, differing_settings, file_list, locked_part, merge_parts, sum_counts
from .remote import RemoteDirectory
from .tokenize_file import Job, Place, changed_error, check_unchanged, size_of, summary_of, tokenize_file

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Event

    from transformers import PreTrainedTokenizerBase


_VERSION = 1


@dataclass(frozen=True)
class TokenizeOptions:
    """Options of `tokenize-corpus`."""

    files: Annotated[
        list[str],
        typer.Argument(help="Files, directories, URLs or quoted glob patterns of text."),
    ]
    tokenizer: Annotated[str, typer.Option(help="Tokenizer directory, Hub repository or SentencePiece .model file.")]
    out: Annotated[str, typer.Option(help="Directory or URL to write. Pass a directory to pretrain as train_data.")]
    text_column: Annotated[str, typer.Option(help="JSON key or column that holds the text.")] = "text"
    workers: Annotated[int, typer.Option(help="Number of processes. Each tokenizes one file at a time.", min=1)] = 1
    shard_tokens: Annotated[int, typer.Option(help="Approximate number of tokens per shard.", min=1)] = 50_000_000
    normalization: Annotated[
        Literal["none", "NFC", "NFKC"], typer.Option(help="Unicode normalization form to apply to the texts.")
    ] = "none"
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first unreadable row instead of skipping it.")
    ] = False
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="Tokenize part I of N: every N-th file, on any machine.")
    ] = None
    merge: Annotated[
        bool, typer.Option("--merge", help="Make one corpus of the finished parts: check them and write the manifest.")
    ] = False


def tokenize_corpus(options: TokenizeOptions) -> Manifest:
    """Tokenizes a corpus or a part of it, resumes an interrupted job, or merges the parts.

    Returns:
        The manifest of the corpus, or of the part.

    Raises:
        UsageError: a file or the tokenizer cannot be read, a file is already tokenized or has changed, `out` holds
            something else, another process writes it, or parts are missing or differ.
    """
    from llm_jp_modernbert.inference.loading import load_tokenizer

    from .encoding import vocabulary_hash
    from .readers import find_files

    if options.part and options.merge:
        raise UsageError("--merge and --part exclude each other. Merge when all parts are finished.")
    paths = find_files(options.files)
    part = PartName.parse(options.part, len(paths)) if options.part else None
    own = dict(enumerate(paths))
    if part is not None:
        own = {number: paths[number] for number in range(part.number - 1, len(paths), part.count)}
    if not options.merge:
        _check_texts(own.values(), options.text_column)
    tokenizer = load_tokenizer(options.tokenizer)
    header: Header = {
        "version": _VERSION,
        "tokenizer": {
            "name": Path(options.tokenizer).name,
            "vocabulary": len(tokenizer),
            "sha256": vocabulary_hash(tokenizer),
        },
        "text_column": options.text_column,
        "normalization": options.normalization,
        "shard_tokens": options.shard_tokens,
        "sources": [{"path": source_name(path), "size": size_of(path)} for path in own.values()],
    }
    part_header: PartHeader = {**header, "files": file_list([source_name(path) for path in paths])}
    with _local_directory(options, part) as (out, remote):
        if part is None:
            return _make_corpus(options, out, remote, header, own, tokenizer)
        return _make_part(options, out, remote, part, part_header, own, tokenizer)


@contextmanager
def _local_directory(options: TokenizeOptions, part: PartName | None) -> Iterator[tuple[Path, RemoteDirectory | None]]:
    """The directory that a job writes; for a remote one a temporary copy, and the remote directory."""
    if not is_remote(options.out):
        yield Path(options.out), None
        return
    own = f"{PROGRESS}/{part.directory}/" if part else f"{PROGRESS}/"

    def is_needed(name: str) -> bool:
        return name == MANIFEST or (name.endswith(f"/{PART}") if options.merge else name.startswith(own))

    with TemporaryDirectory() as folder:
        remote = RemoteDirectory(options.out, Path(folder) / "corpus")
        remote.download(is_needed)
        try:
            yield remote.local, remote
        except UsageError as error:
            raise UsageError(str(error).replace(str(remote.local), options.out)) from error


def _make_corpus(
    options: TokenizeOptions,
    out: Path,
    remote: RemoteDirectory | None,
    header: Header,
    paths: Mapping[int, str],
    tokenizer: PreTrainedTokenizerBase,
) -> Manifest:
    place = Place(out, out / PROGRESS, out / TOKENIZER, out / MANIFEST, remote)
    with lock(out, "tokenize-corpus"):
        finished = _finished(place, Manifest, header, paths.values())
        if finished is not None:
            return cast("Manifest", finished)
        if options.merge:
            sources = merge_parts(out, header)
            tokenizer.save_pretrained(place.tokenizer)
        else:
            _prepare(place, Header, header)
            tokenizer.save_pretrained(place.tokenizer)
            sources = _tokenize(options, place, header, paths)
        totals = sum_counts(sources)
        if not totals["documents"]:
            raise UsageError(f"{options.files[0]}: no document. The files are empty, or every text in them is blank.")
        manifest: Manifest = {**header, "sources": sources, "totals": totals}
        write_whole(place.manifest, json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
        place.upload(*files_by_path(place.tokenizer).values(), place.manifest)
        shutil.rmtree(place.progress)
        if remote is not None:
            remote.remove(PROGRESS)
        return manifest


def _make_part(
    options: TokenizeOptions,
    out: Path,
    remote: RemoteDirectory | None,
    part: PartName,
    header: PartHeader,
    paths: Mapping[int, str],
    tokenizer: PreTrainedTokenizerBase,
) -> Part:
    with locked_part(out, part) as progress:
        place = Place(out, progress, progress / TOKENIZER, progress / PART, remote)
        finished = _finished(place, Part, header, paths.values())
        if finished is not None:
            return cast("Part", finished)
        _prepare(place, PartHeader, header)
        tokenizer.save_pretrained(place.tokenizer)
        sources = _tokenize(options, place, header, paths)
        manifest: Part = {**header, "sources": sources, "totals": sum_counts(sources)}
        write_whole(place.manifest, json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
        place.upload(place.manifest)
        return manifest


def _check_texts(paths: Iterable[str], text_column: str) -> None:
    from .readers import SourceError, is_tokenized

    for path in paths:
        if is_tokenized(path, text_column):
            raise SourceError(
                f"{path}: already tokenized: it holds token ids and no column {text_column!r}. Name the files "
                "with the texts, or their column with --text-column; train_data accepts token ids directly."
            )


def _tokenize(options: TokenizeOptions, place: Place, header: Header, paths: Mapping[int, str]) -> list[SourceEntry]:
    """Tokenizes source files, which are given with their numbers in the whole corpus."""
    workers = min(options.workers, len(paths))
    threads = max(1, (os.cpu_count() or 1) // workers)
    jobs = [
        Job(
            path,
            source["size"],
            f"{number:05d}-{_file_name(path)}",
            place,
            threads,
            text_column=options.text_column,
            normalization=options.normalization,
            strict=options.strict,
            shard_tokens=options.shard_tokens,
        )
        for (number, path), source in zip(paths.items(), header["sources"], strict=True)
    ]
    in_one_process = chain.from_iterable(map(tokenize_file, jobs))
    _show_progress(jobs, in_one_process if workers == 1 else _tokenize_in_processes(jobs, workers))
    return [summary_of(job) for job in jobs]


def _file_name(path: str) -> str:
    """The name of a file up to its first period, as UTF-8 that leaves room for numbers and a suffix in 255 bytes."""
    return Path(path).name.split(".")[0].encode("utf-8", "replace")[:237].decode("utf-8", "ignore")


def _finished(place: Place, kind: Any, header: Header, paths: Iterable[str]) -> Any:
    """The manifest of a finished corpus or part, or None; raises a `UsageError` if it is another one."""
    if not place.manifest.is_file():
        return None
    manifest = read_json(place.manifest, kind, max_bytes=MAX_BYTES)
    _check_same(place, manifest, header)
    for path, source in zip(paths, manifest["sources"], strict=True):
        # Manifests of earlier versions only have the size.
        if "sha256" in source or "version" in source:
            check_unchanged(path, cast("SourceState", source))
    return manifest


def _prepare(place: Place, kind: Any, header: Header) -> None:
    """Creates the directories of a corpus or part, or checks those of an interrupted job."""
    unfinished = place.progress / HEADER
    if unfinished.is_file():
        _check_same(place, read_json(unfinished, kind, max_bytes=MAX_BYTES), header)
        return
    if place.progress.parent == place.out:
        check_no_parts(place.out)
        check_vacant(place.out, "--out")
    (place.out / DATA).mkdir(parents=True, exist_ok=True)
    place.progress.mkdir(parents=True, exist_ok=True)
    write_whole(unfinished, json.dumps(header, ensure_ascii=False))
    place.upload(unfinished)


def _check_same(place: Place, saved: Header | Manifest, header: Header) -> None:
    for before, now in zip(saved["sources"], header["sources"], strict=False):
        if before["path"] == now["path"] and before["size"] != now["size"]:
            raise changed_error(now["path"])
    changed = differing_settings(saved, header)
    if changed:
        raise UsageError(
            f"{place.manifest.parent} holds a corpus that was tokenized with other settings ({', '.join(changed)}). "
            "Name another --out."
        )


def _show_progress(jobs: list[Job], finished: Iterator[Counter[str]]) -> None:
    from llm_jp_modernbert.core.progress import progress_bar
    from llm_jp_modernbert.core.terminal import console

    start = time.perf_counter()
    total: Counter[str] = Counter()
    with progress_bar(console(), "{task.fields[rate]}") as bar:
        task = bar.add_task("tokenizing", total=sum(max(1, job.size) for job in jobs), rate="")
        for counts in finished:
            total.update(counts)
            seconds = time.perf_counter() - start
            rate = (
                f"{total['documents']:,} documents, {total['bytes'] / 1e6 / seconds:,.1f} MB/s, "
                f"{total['tokens'] / seconds:,.0f} tokens/s"
            )
            bar.update(task, completed=total["file_bytes"], rate=rate)


def _tokenize_in_processes(jobs: list[Job], workers: int) -> Iterator[Counter[str]]:
    # Spawned: a forked process would inherit the thread pool of the tokenizers library in an undefined state.
    context = get_context("spawn")
    stop, counts = context.Event(), context.SimpleQueue()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (stop, counts))
    try:
        with _ctrl_c_deferred():
            pending = {pool.submit(_run_in_worker, job) for job in jobs}
        while pending:
            done, pending = wait(pending, timeout=0.1)
            for future in done:
                future.result()
            while not counts.empty():
                yield counts.get()
    except BrokenProcessPool as error:
        raise UsageError(
            "A worker process ended unexpectedly, possibly for lack of memory. Run the same command again to resume, "
            "with fewer --workers."
        ) from error
    finally:
        # Waits for the current batches, so that no worker writes any more when the next job resumes.
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_deferred() -> Iterator[None]:
    """Defers Ctrl-C. Processes that are started inside the block never receive it, however long their imports take."""
    # Only the main thread may set handlers, and only POSIX has masks.
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    received: list[int] = []
    # Another thread may receive the signal, but handlers run in this one.
    handler = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if received:
            signal.raise_signal(signal.SIGINT)


_stop: Event
_counts: SimpleQueue[Counter[str]]


def _start_worker(stop: Event, counts: SimpleQueue[Counter[str]]) -> None:
    """Ignores Ctrl-C, which a terminal sends to all processes: the parent sets `stop` instead."""
    global _stop, _counts
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _stop, _counts = stop, counts


def _exit_with_parent() -> None:
    """Ends a worker whose parent was killed, before the next job writes the same files."""
    parent_process().join()  # type: ignore[union-attr]
    os._exit(1)


def _run_in_worker(job: Job) -> None:
    # The pool queues a few files ahead, which cannot be cancelled any more.
    if _stop.is_set():
        return
    for counts in tokenize_file(job):
        _counts.put(counts)
        if _stop.is_set():
            return
