"""The directory that `encode` writes: its settings, and one Parquet file per shard.

A shard is a range of rows of the inputs. Its file is written as a whole, so after a kill the finished shards remain
and the others are computed again. Processes that write the same directory claim shards with locks, which end with
their process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import LockedError, check_vacant, lock, read_json, write_json

if TYPE_CHECKING:
    import pyarrow

SETTINGS, DATA = "encode.json", "data"
_JOB = "encode"
_COUNTS = b"llm_jp_modernbert.encode"
_WAIT = 0.2


class InputRecord(TypedDict):
    """A source of texts; `rows` is None if unknown."""

    name: str
    rows: int | None
    fingerprint: str


class Record(TypedDict):
    """Content of `encode.json`.

    Attributes:
        model, revision: name of the model; its commit, or `sha256:…` of the weights.
        settings: settings that determine the result.
        inputs: the sources, in order.
        calibration: minima and maxima of each dimension, for int8; else None.
        versions: versions of libraries of the first run.
        results: counts, when all shards are finished.
    """

    schema: int
    model: str
    revision: str
    settings: dict[str, Any]
    inputs: list[InputRecord]
    calibration: list[list[float]] | None
    versions: dict[str, str]
    results: dict[str, int] | None


@dataclass(frozen=True)
class Counts:
    """Counts of rows of the inputs.

    Attributes:
        rows: rows that were read; the sum of texts, blank and skipped ones.
        texts: texts with a result.
        blank: rows without a text.
        skipped: unreadable or unusable rows.
        tokens: tokens of the texts, special tokens included.
        full: texts that fill the model's context, and so may have been truncated.
    """

    rows: int = 0
    texts: int = 0
    blank: int = 0
    skipped: int = 0
    tokens: int = 0
    full: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class Folder:
    """The directory of a job.

    Args:
        out: the directory.
    """

    def __init__(self, out: Path) -> None:
        self.out = Path(os.path.expanduser(out))

    def begin(self, record: Record) -> None:
        """Writes the settings, or compares them with those of an earlier run.

        Raises:
            UsageError: the directory holds something else, or other settings or inputs.
        """
        with self._alone():
            if (self.out / SETTINGS).exists():
                _compare(self.out, self.record(), record)
            else:
                # A process killed while it wrote the settings leaves such a file.
                for unfinished in self.out.glob(f".{SETTINGS}.*"):
                    unfinished.unlink()
                check_vacant(self.out, "--out")
                self.out.mkdir(exist_ok=True)
                # First: a directory without settings is refused.
                write_json(self.out / SETTINGS, record)
            (self.out / DATA).mkdir(exist_ok=True)

    def record(self) -> Record:
        """The settings of the directory."""
        record: Record = read_json(self.out / SETTINGS, Record)
        return record

    @contextmanager
    def editing(self) -> Iterator[Record]:
        """Yields the record, which is written if the block changes it; one process at a time."""
        with self._alone():
            record = self.record()
            before = json.dumps(record)
            yield record
            if json.dumps(record) != before:
                write_json(self.out / SETTINGS, record)

    def shard(self, index: int) -> Path:
        """The file of a shard."""
        return self.out / DATA / f"part-{index:05}.parquet"

    @contextmanager
    def claim(self, index: int) -> Iterator[bool]:
        """Yields whether this process may write a shard; another one does so if not."""
        with ExitStack() as stack:
            try:
                stack.enter_context(lock(self.shard(index), _JOB))
            except LockedError:
                yield False
                return
            yield True

    def write(self, index: int, table: pyarrow.Table, counts: Counts) -> None:
        """Writes the file of a claimed shard as a whole."""
        import pyarrow.parquet

        path = self.shard(index)
        # A fixed name: the next attempt replaces what a killed process has left.
        unfinished = path.with_name(f".{path.name}.unfinished")
        table = table.replace_schema_metadata({_COUNTS: json.dumps(asdict(counts))})
        pyarrow.parquet.write_table(table, unfinished, compression="zstd", use_dictionary=False)
        os.replace(unfinished, path)

    def counts(self, index: int) -> Counts | None:
        """The counts of a finished shard; None if it is not finished.

        Raises:
            UsageError: the file is damaged.
        """
        import pyarrow
        import pyarrow.parquet

        path = self.shard(index)
        try:
            return Counts(**json.loads(pyarrow.parquet.read_schema(path).metadata[_COUNTS]))
        except FileNotFoundError:
            return None
        except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path}: not a file of this job. Delete it, and run the same command again.") from error

    def finished(self) -> list[int]:
        """The finished shards."""
        numbers = [path.stem.removeprefix("part-") for path in (self.out / DATA).glob("part-*.parquet")]
        return sorted(int(number) for number in numbers if number.isdecimal())

    def tidy(self) -> None:
        """Removes the lock files and unfinished files of killed processes, when all shards are finished."""
        for path in (*(self.out / DATA).glob(".part-*"), *self.out.glob(f".{SETTINGS}.*")):
            path.unlink(missing_ok=True)

    def size(self) -> int:
        """Bytes of the finished shards."""
        return sum(path.stat().st_size for path in (self.out / DATA).glob("part-*.parquet"))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits until no other process reads or writes the settings."""
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(lock(self.out, _JOB))
                    break
                except LockedError:
                    time.sleep(_WAIT)
            yield


def _compare(out: Path, stored: Record, new: Record) -> None:
    """Raises `UsageError` if two records differ in what determines the result."""
    way_out = "Repeat it, or name another --out."
    if stored["revision"] != new["revision"]:
        raise UsageError(
            f"--out {out} was begun with the model {stored['model']} ({stored['revision']}), but this run has "
            f"{new['model']} ({new['revision']}). {way_out}"
        )
    for key in dict.fromkeys((*stored["settings"], *new["settings"])):
        before, now = stored["settings"].get(key), new["settings"].get(key)
        if before != now:
            raise UsageError(
                f"--out {out} was begun with {_setting(key, before)}, but this run has {_setting(key, now)}. {way_out}"
            )
    for before_input, input_ in zip(stored["inputs"], new["inputs"], strict=False):
        if before_input["name"] != input_["name"]:
            raise UsageError(
                f"--out {out} was begun with the input {before_input['name']}, but this run has {input_['name']}. "
                f"{way_out}"
            )
        if before_input != input_:
            raise UsageError(f"{input_['name']} has changed since --out {out} was begun. Name another --out.")
    if len(stored["inputs"]) != len(new["inputs"]):
        raise UsageError(
            f"--out {out} was begun with {len(stored['inputs'])} input files, but this run has {len(new['inputs'])}. "
            f"{way_out}"
        )


def _setting(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value, ensure_ascii=False).strip(chr(34))}" if not isinstance(value, Mapping) else key
