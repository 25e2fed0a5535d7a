"""Shards of the inputs, computed one after the other by any number of processes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.progress import progress_bar
from llm_jp_modernbert.core.terminal import console
from llm_jp_modernbert.core.text_files import BadRow

from .folder import DATA, Counts, Folder
from .inputs import Document, Inputs
from .jobs import Embed, Job, Rows
from .options import EncodeOptions

logger = logging.getLogger(__name__)

# Texts that calibrate int8.
_CALIBRATION = 1000
# Texts are tokenized while those before them are computed; limits of such a block.
_BLOCK_ROWS, _BLOCK_CHARACTERS = 2048, 500_000
# Unusable rows that are shown.
_SHOWN = 10
_WAIT = 0.5
_NONE = Counts()


@dataclass(frozen=True)
class Block:
    """Consecutive rows: their texts with token ids, unusable rows, and counts."""

    documents: list[Document]
    rows: Rows
    problems: list[BadRow]
    counts: Counts


class Run:
    """Computes the shards of a directory, together with other processes that do the same.

    Args:
        options: options of the command.
        inputs: the rows.
        job: what is computed.
        folder: the directory, with settings.
    """

    def __init__(self, options: EncodeOptions, inputs: Inputs, job: Job, folder: Folder) -> None:
        self.options, self.inputs, self.job, self.folder = options, inputs, job, folder
        self.is_first = os.environ.get("RANK", "0") == "0"
        self.seen: dict[int, Counts] = {}
        self.done = self.before = _NONE
        self.problems = 0
        rows = inputs.rows
        self.shards = None if rows is None else -(-rows // options.rows_per_shard)

    def calibrate(self) -> None:
        """For int8, computes the ranges of the dimensions on the first texts, once."""
        if not isinstance(self.job, Embed) or self.options.precision != "int8":
            return
        with self.folder.editing() as record:
            if record["calibration"] is None:
                logger.info("Calibrating int8 on the first %s texts …", f"{_CALIBRATION:,}")
                texts: Rows = []
                with closing(self._blocks(0, 10 * _CALIBRATION)) as blocks:
                    while len(texts) < _CALIBRATION and (block := next(blocks, None)) is not None:
                        texts += block.rows
                record["calibration"] = self.job.calibrate(texts[:_CALIBRATION])
            self.job.ranges = np.array(record["calibration"], np.float32)

    def work(self) -> None:
        """Computes shards until all are finished; takes over those of processes that end before."""
        for index in self.folder.finished():
            self._is_finished(index)
        self.before, self.started = self.done, time.perf_counter()
        with progress_bar(console(), "{task.fields[rate]}") if self.is_first else nullcontext() as self.bar:
            if self.bar is not None:
                self.task = self.bar.add_task("rows", total=self.inputs.rows, rate="")
            while not self._pass():
                time.sleep(_WAIT)

    def _pass(self) -> bool:
        """Computes every shard that is neither finished nor claimed; returns whether all are finished."""
        complete, index = True, 0
        while self.shards is None or index < self.shards:
            if not self._is_finished(index):
                with self.folder.claim(index) as mine:
                    # Another process may have finished it before the claim.
                    if mine and not self._is_finished(index):
                        self._compute(index)
                complete = complete and mine
            self._show()
            index += 1
        return complete

    def _is_finished(self, index: int) -> bool:
        if index not in self.seen:
            counts = self.folder.counts(index)
            if counts is None:
                return False
            if self.options.strict and counts.skipped:
                raise UsageError(
                    f"{self.folder.shard(index)}: {counts.skipped:,} unusable rows were skipped by a run without "
                    "--strict. Drop --strict, or name another --out."
                )
            self._add(index, counts)
        return True

    def _add(self, index: int, counts: Counts) -> None:
        self.seen[index] = counts
        self.done += counts
        if counts.rows < self.options.rows_per_shard:
            # The end of the inputs, whose number of rows may be unknown.
            self.shards = index + 1 if counts.rows else index

    def _compute(self, index: int) -> None:
        import pyarrow

        counts, ids, columns = _NONE, list[str](), [self.job.empty()]
        start = index * self.options.rows_per_shard
        for block in ahead(self._blocks(start, self.options.rows_per_shard)):
            for problem in block.problems:
                self._report(problem)
            if block.documents:
                columns.append(
                    self.job.compute(block.documents, block.rows, partial(self._show, counts, block.counts))
                )
                ids += [document.id for document in block.documents]
            counts += block.counts
        if counts.rows:
            merged = {name: pyarrow.chunked_array([part[name] for part in columns]) for name in columns[0]}
            table = pyarrow.table({"id": pyarrow.array(ids, pyarrow.string()), **merged})
            self.folder.write(index, table, counts)
        self._add(index, counts)

    def _show(self, shard: Counts = _NONE, block: Counts = _NONE, share: float = 0.0) -> None:
        """Shows the finished shards of all processes, and the finished part of the current one."""
        if self.bar is None:
            return
        seconds = time.perf_counter() - self.started
        done = self.done + shard
        rows, texts, tokens = (
            getattr(done, name) - getattr(self.before, name) + share * getattr(block, name)
            for name in ("rows", "texts", "tokens")
        )
        rate = _rate(texts, tokens, seconds)
        self.bar.update(self.task, completed=self.before.rows + rows, rate=rate)

    def _blocks(self, start: int, count: int) -> Generator[Block, None, None]:
        """Reads and tokenizes rows; the limits of blocks depend on the rows alone."""
        documents, characters = list[Document](), 0
        problems: list[BadRow] = []
        rows = blank = 0
        for row in self.inputs.read(start, count):
            rows += 1
            if isinstance(row, BadRow):
                if row.is_blank:
                    blank += 1
                else:
                    problems.append(row)
            else:
                documents.append(row)
                characters += len(row.text) + len(row.pair or "")
            if rows == _BLOCK_ROWS or characters > _BLOCK_CHARACTERS:
                yield self._block(documents, problems, rows, blank)
                documents, characters, problems, rows, blank = [], 0, [], 0, 0
        if rows:
            yield self._block(documents, problems, rows, blank)

    def _block(self, documents: list[Document], problems: list[BadRow], rows: int, blank: int) -> Block:
        tokenized = self.job.tokenize(documents) if documents else []
        usable: list[Document] = []
        ids: Rows = []
        for document, tokens in zip(documents, tokenized, strict=True):
            fault = self.job.fault(document, tokens)
            if fault is None:
                usable.append(document)
                ids.append(tokens)
            else:
                problems.append(BadRow(document.source, document.row, fault))
        if problems and self.options.strict:
            raise UsageError(str(min(problems, key=lambda problem: problem.row)))
        full = sum(len(tokens) >= self.job.encoder.max_length for tokens in ids)
        counts = Counts(rows, len(ids), blank, len(problems), sum(map(len, ids)), full)
        return Block(usable, ids, problems, counts)

    def _report(self, problem: BadRow) -> None:
        self.problems += 1
        if self.problems <= _SHOWN:
            logger.warning("Skipped: %s", problem)
        elif self.problems == _SHOWN + 1:
            logger.warning("Further skipped rows are counted only.")

    def finish(self) -> Counts:
        """Writes the counts of all shards to the settings, and reports them."""
        with self.folder.editing() as record:
            record["results"] = asdict(self.done)
            self.folder.tidy()
        if self.is_first:
            self._summarize(self.done)
        return self.done

    def _summarize(self, counts: Counts) -> None:
        seconds = time.perf_counter() - self.started
        texts, tokens = counts.texts - self.before.texts, counts.tokens - self.before.tokens
        parts = [f"{counts.texts:,} texts, {counts.tokens:,} tokens"]
        if texts:
            parts.append(f"{_rate(texts, tokens, seconds)} in this run")
        if counts.full:
            parts.append(
                f"{counts.full:,} fill the context of {self.job.encoder.max_length:,} tokens, the rest is cut"
            )
        if counts.skipped:
            parts.append(f"{counts.skipped:,} unusable rows skipped")
        if counts.blank:
            parts.append(f"{counts.blank:,} blank rows")
        parts.append(f"{self.folder.size() / 1e6:,.1f} MB in {self.shards:,} files")
        data = self.folder.out / DATA
        logger.info("%s: %s.", self.folder.out, "; ".join(parts))
        logger.info('Read them with pandas.read_parquet("%s") or datasets.load_dataset("%s").', data, self.folder.out)


def _rate(texts: float, tokens: float, seconds: float) -> str:
    # Books take longer than a second.
    decimals = 0 if texts >= 10 * seconds else 2
    return f"{texts / seconds:,.{decimals}f} texts/s, {tokens / seconds:,.0f} tokens/s"


def ahead(blocks: Iterator[Block]) -> Iterator[Block]:
    """Yields blocks; the next one is prepared in the background."""
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(next, blocks, None)
        while (block := future.result()) is not None:
            future = executor.submit(next, blocks, None)
            yield block
