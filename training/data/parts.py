"""Parts of a tokenized corpus, which different machines make, and the corpus that they make up.

Part I of N holds the source files I, I + N, I + 2N and so on. Its shards have the names that they have in a corpus
made by one job, so the merged corpus is the same for every number of parts.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import LockedError, lock, read_json

from .manifest import (
    DATA,
    HEADER,
    MANIFEST,
    PART,
    PROGRESS,
    TOKENIZER,
    Counts,
    FileList,
    Header,
    Part,
    SourceEntry,
)

_MAX_LISTED = 8


@dataclass(frozen=True, order=True)
class PartName:
    """Part `number` of `count`, from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str, files: int) -> PartName:
        """Reads `I/N`.

        Raises:
            UsageError: it is something else, or there are fewer than N files.
        """
        match = re.fullmatch(r"0*(\d{1,5})/0*(\d{1,5})", text)
        part = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if not 1 <= part.number <= part.count:
            raise UsageError(f"--part {text}: give the number of the part and the number of parts, such as 1/8.")
        if part.count > files:
            raise UsageError(f"--part {text}: the corpus has fewer files ({files:,}) than parts. Lower N.")
        return part

    @property
    def directory(self) -> str:
        """Name of the directory of the part below `PROGRESS`."""
        return f"part-{self.number:05d}-of-{self.count:05d}"

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def begun_parts(out: Path) -> dict[PartName, Path]:
    """The directories of the parts of a corpus that is not merged yet; the parts may be unfinished."""
    names = {folder: re.fullmatch(r"part-(\d+)-of-(\d+)", folder.name) for folder in (out / PROGRESS).glob("part-*")}
    return dict(sorted((PartName(int(name[1]), int(name[2])), folder) for folder, name in names.items() if name))


@contextmanager
def locked_part(out: Path, part: PartName) -> Iterator[Path]:
    """Locks a part and yields its directory, which need not exist.

    Raises:
        UsageError: another process writes the part, or `out` holds something else.
    """
    _check_directory(out)
    with ExitStack() as stack:
        try:
            folder = out / PROGRESS / part.directory
            stack.enter_context(lock(folder, "tokenize-corpus"))
        except LockedError:
            raise UsageError(f"{out}: another job is tokenizing part {part}. Wait until it has finished.") from None
        if (out / MANIFEST).is_file():
            raise UsageError(f"{out}: a finished corpus, whose parts are merged. Name another --out.")
        if (out / PROGRESS / HEADER).is_file():
            raise UsageError(
                f"{out}: a job without --part has begun this corpus. Run it again, or name another --out."
            )
        _check_one_split(out, {part: folder, **begun_parts(out)})
        yield folder


def check_no_parts(out: Path) -> None:
    """Raises a `UsageError` if parts of a corpus are not merged yet."""
    if begun_parts(out):
        raise UsageError(f"{out}: holds parts of a corpus. Run tokenize-corpus with --part or --merge.")


def _check_directory(out: Path) -> None:
    known = {DATA, PROGRESS, TOKENIZER, MANIFEST, f".{out.resolve().name}.lock"}
    if out.exists() and (not out.is_dir() or not known.issuperset(os.listdir(out))):
        raise UsageError(f"--out {out} is not empty. Name a new directory.")


def _check_one_split(out: Path, parts: dict[PartName, Path]) -> None:
    counts = sorted({part.count for part in parts})
    if len(counts) > 1:
        raise UsageError(
            f"{out}: the corpus is already split into {counts[0]} parts, and into {counts[1]}. Use one number of "
            f"parts, or remove the directories of the others from {out / PROGRESS}."
        )


def merge_parts(out: Path, header: Header) -> list[SourceEntry]:
    """Checks the parts of a corpus and returns the entries of all source files.

    Args:
        out: directory of the corpus.
        header: the corpus that the parts must make up.

    Raises:
        UsageError: a part is missing or unfinished or was made from other files or with other settings, or a shard is
            missing.
    """
    folders = begun_parts(out)
    if not folders:
        raise UsageError(f"{out}: holds no parts. Run tokenize-corpus with --part 1/N to --part N/N first.")
    _check_one_split(out, folders)
    count = next(iter(folders)).count
    names = [PartName(number, count) for number in range(1, count + 1)]
    missing = [name for name in names if name not in folders or not (folders[name] / PART).is_file()]
    if missing:
        raise UsageError(
            f"{out}: not finished: {_listed(missing)} of the parts. Run tokenize-corpus with --part for these, then "
            "with --merge again."
        )
    files = file_list([source["path"] for source in header["sources"]])
    entries: list[SourceEntry | None] = [None] * len(header["sources"])
    differing = []
    for name in names:
        part: Part = read_json(folders[name] / PART, Part)
        own = slice(name.number - 1, None, count)
        differences = differing_settings(part, {**header, "sources": header["sources"][own], "files": files})
        if differences:
            differing.append(f"{name} ({', '.join(differences)})")
        else:
            entries[own] = part["sources"]
    if differing:
        raise UsageError(
            f"{out}: made from other files or with other settings than this command names: {_listed(differing)} of "
            "the parts. Name those, or another --out."
        )
    sources = cast("list[SourceEntry]", entries)
    _check_shards(out, sources)
    return sources


def differing_settings(saved: Any, expected: Any) -> list[str]:
    """Keys of `expected` that differ in a saved header or manifest; of the sources, path and size are compared."""

    def files(header: Any) -> list[tuple[str, int]]:
        return [(source["path"], source["size"]) for source in header["sources"]]

    changed = [key for key, value in expected.items() if key != "sources" and saved.get(key) != value]
    return changed if files(saved) == files(expected) else [*changed, "sources"]


def _check_shards(out: Path, sources: Sequence[SourceEntry]) -> None:
    listed = {shard["file"] for source in sources for shard in source["shards"]}
    existing = set(os.listdir(out / DATA))
    for name in islice(sorted(listed ^ existing), 1):
        fault = "is missing" if name in listed else "belongs to no part"
        raise UsageError(f"{out / DATA / name}: {fault}. Tokenize the corpus again.")


def _listed(items: Sequence[object]) -> str:
    more = f" and {len(items) - _MAX_LISTED:,} more" if len(items) > _MAX_LISTED else ""
    return ", ".join(map(str, items[:_MAX_LISTED])) + more


def file_list(paths: Sequence[str]) -> FileList:
    """Identifies the source files of a whole corpus by their paths."""
    content = "\n".join(paths).encode("utf-8", "surrogateescape")
    return {"count": len(paths), "sha256": hashlib.sha256(content).hexdigest()}


def sum_counts(entries: Sequence[Counts]) -> Counts:
    """Sums of the counts of files, or of shards."""
    return cast("Counts", {name: sum(cast(Any, entry)[name] for entry in entries) for name in Counts.__annotations__})
