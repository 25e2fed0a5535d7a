"""The batches of a run: an endless, resumable sequence of rows, shared by any number of ranks and workers.

Rows are numbered through the whole run, and which row has which number depends on the data, the seed and the settings
alone. Of every batch rank r of R takes row r and every R-th after it: one process with the same global batch trains on
the same rows as many, and a run may go on with another number of ranks.

Where texts are tokenised on the fly, ranks should not all tokenise all of it. So blocks can be dealt to L lanes, block
b to lane b mod L, and row n is the next row of lane n mod L: where R divides L, each rank makes the blocks of L / R
lanes. Lanes drift apart by less than a block, since blocks are of equal size in characters.

The state of a rank is the number of the next row and, per lane, where the block of its last row begins. As places are
numbers of shards and rows, it also says which lists of shards they belong to.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from ..run.checkpoints import CheckpointError
from .blocks import Block, BlockDataset, BlockMaker
from .masking import IGNORED, Masking, sample_keys
from .order import changed_shards, shard_list
from .readers import SourceError

# How often a worker looks whether its parent lives.
_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class BatchInfo:
    """What a batch holds, beside its tensors.

    Attributes:
        samples: `(pieces, 5)` int64: source, epoch, shard and row of every piece's document, and its first token.
        lengths: `(pieces,)` int64 tokens of each piece, special tokens included.
        labels: tokens to be predicted.
        padded_tokens: tokens that the batch would have as a rectangle, padded to its longest row.
        room: tokens that its rows could hold.
    """

    samples: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    labels: int
    padded_tokens: int
    room: int

    @property
    def tokens(self) -> int:
        """Tokens that the model reads, special tokens included."""
        return int(self.lengths.sum())

    @property
    def epoch(self) -> int:
        """The latest epoch of any source."""
        return int(self.samples[:, 1].max())


@dataclass
class _Lane:
    """Where a lane stands: its block, where that begins, the lane's rows before it, and the last block reported."""

    block: int
    begin: list[dict[str, Any]] | None = None
    base: int = 0
    reported: int = -1


class BatchStream:
    """Packed, masked batches for one rank, for ever.

    Args:
        maker: makes the blocks.
        masking: how rows are masked.
        rows: rows of this rank's batch, as a function of the optimizer step from 0.
        probability: the masked-LM probability, as a function of the step; None for that of `masking`.
        rank: of this process.
        ranks: how many there are.
        lanes: sequences that blocks are dealt to.
        workers: processes that make blocks ahead; 0 makes them where they are needed.
        report: is told of every block that is begun, by one of the ranks that use it.
    """

    def __init__(
        self,
        maker: BlockMaker,
        masking: Masking,
        rows: Callable[[int], int],
        probability: Callable[[int], float] | None = None,
        rank: int = 0,
        ranks: int = 1,
        lanes: int = 1,
        workers: int = 0,
        report: Callable[[Block], Any] | None = None,
    ) -> None:
        self.maker = maker
        self.masking = masking
        self.rows = rows
        self.probability = probability
        self.rank, self.ranks, self.lanes, self.workers = rank, ranks, lanes, workers
        self.report = report
        self.step = 0
        self._next_row = 0
        self._lanes = {lane: _Lane(lane) for lane in self._lanes_of_rank()}

    def _lanes_of_rank(self) -> list[int]:
        """The lanes that hold this rank's rows: every `ranks`-th one from the present place on."""
        common = math.gcd(self.lanes, self.ranks)
        # Counted from here: with another number of ranks before, the rows read need not be a multiple of it.
        return list(range((self._next_row + self.rank) % common, self.lanes, common))

    def state_dict(self) -> dict[str, Any]:
        """What this rank has to remember, as plain values; to be taken between two steps."""
        return {
            "rows": self._next_row,
            "step": self.step,
            "sources": [shard_list(source) for source in self.maker.sources],
            "lanes": {str(number): asdict(lane) for number, lane in self._lanes.items()},
        }

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Goes on where a run stopped, with the same or another number of ranks.

        Args:
            states: of all the ranks that there were.

        Raises:
            CheckpointError: the states belong to another number of lanes, or to other files.
        """
        self._next_row, self.step = states[0]["rows"], states[0]["step"]
        # Of the ranks that share a lane the first one reports its blocks: its word on them counts.
        saved = {int(number): lane for state in reversed(states) for number, lane in state["lanes"].items()}
        if set(saved) != set(range(self.lanes)):
            raise CheckpointError(
                f"data_lanes={self.lanes}, but the checkpoint's data has {len(saved)}. Go on with that many."
            )
        # A checkpoint of an earlier version does not say.
        changed = changed_shards(states[0]["sources"], self.maker.sources) if "sources" in states[0] else None
        if changed is not None:
            raise CheckpointError(
                f"train_data: {changed}, so that its place is lost. Go on with the files as they were, or train on "
                "these in another output_dir with init_from."
            )
        self._lanes = {number: _Lane(**saved[number]) for number in self._lanes_of_rank()}

    def batches(self, accumulation: int = 1) -> Iterator[dict[str, Any]]:
        """Batches from the present place on; the state moves with them.

        Args:
            accumulation: batches of one optimizer step.

        Returns:
            `input_ids` and `labels` `(1, total_tokens)` int64, `cu_seqlens` `(pieces + 1,)` int32, `max_seqlen` int,
            and `info`, a `BatchInfo` that the model does not take.

        Raises:
            SourceError: the data is at fault, see `read_documents`.
        """
        arriving = _loaded(self._blocks(), self.workers)
        # Also where the interpreter ends: it would wait for workers that are deaf to its signal. What is registered
        # last is called first, that is, before torch says that it is too late to end workers.
        atexit.register(arriving.close)
        take = self._row_taker(arriving)
        try:
            while True:
                count = self.rows(self.step)
                probability = None if self.probability is None else self.probability(self.step)
                for micro in range(accumulation):
                    numbers = range(self._next_row + self.rank, self._next_row + count * self.ranks, self.ranks)
                    chosen = [take(number) for number in numbers]
                    self._next_row += count * self.ranks
                    # Before the batch is handed out: whoever has the last one of a step sees the state after it.
                    self.step += micro == accumulation - 1
                    yield self._batch(chosen, probability)
        finally:
            arriving.close()
            atexit.unregister(arriving.close)

    def _row_taker(self, arriving: Iterator[Block]) -> Callable[[int], tuple[Block, int]]:
        """A function that gives the block and the row of a number; numbers must rise."""
        waiting: dict[int, deque[Block]] = {number: deque() for number in self._lanes}
        current: dict[int, Block] = {}
        # Of the ranks that share lanes, which are so many apart, the first one tells of their blocks.
        report = self.report if self.rank < math.gcd(self.lanes, self.ranks) else None

        def advance(number: int) -> Block:
            while not waiting[number]:
                block = next(arriving)
                waiting[block.number % self.lanes].append(block)
            block = current[number] = waiting[number].popleft()
            lane = self._lanes[number]
            lane.block, lane.begin = block.number, block.begin
            if report is not None and block.number > lane.reported:
                report(block)
                lane.reported = block.number
            return block

        def take(row: int) -> tuple[Block, int]:
            number, place = row % self.lanes, row // self.lanes
            lane = self._lanes[number]
            block = current.get(number) or advance(number)
            while place - lane.base >= len(block):
                lane.base += len(block)
                block = advance(number)
            return block, int(block.order[place - lane.base])

        return take

    def _blocks(self) -> BlockDataset:
        """The blocks of this rank's lanes, in the order of their numbers."""
        earliest = min(self._lanes.values(), key=lambda lane: lane.block)
        begin = earliest.begin
        # A lane without a place was never read: everything has to be read from the beginning to find its first block.
        unread = any(lane.begin is None for lane in self._lanes.values())
        wanted = _Wanted(self.lanes, {number: lane.block for number, lane in self._lanes.items()})
        return BlockDataset(self.maker, wanted, 0 if unread else earliest.block, None if unread else begin)

    def _batch(self, chosen: Sequence[tuple[Block, int]], probability: float | None) -> dict[str, Any]:
        found = [(block, block.rows.row(row), block.rows.pieces(row)) for block, row in chosen]
        ids = np.concatenate([ids for _, (ids, _), _ in found])
        lengths = np.concatenate([lengths for _, (_, lengths), _ in found])
        samples = np.concatenate([block.samples(pieces) for block, _, pieces in found])
        keys = sample_keys(self.maker.settings.seed, samples)
        words = None
        if self.maker.settings.whole_word:
            # CLS and SEP are no words; as special tokens they are not masked, whatever their number.
            words = np.concatenate([block.rows.gather(row, cast(Any, block.words), 0, 0)[0] for block, row in chosen])
        inputs, labels = self.masking(ids, lengths, keys, words, probability)
        longest = max(len(ids) for _, (ids, _), _ in found)
        info = BatchInfo(
            samples,
            lengths,
            int((labels != IGNORED).sum()),
            longest * len(found),
            len(found) * self.maker.settings.sequence_length,
        )
        return {
            "input_ids": torch.from_numpy(inputs)[None],
            "labels": torch.from_numpy(labels)[None],
            "cu_seqlens": torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
            "max_seqlen": int(lengths.max()),
            "info": info,
        }


@dataclass(frozen=True)
class _Wanted:
    """Whether a block belongs to some lanes and was not used up before. A class, so that it reaches workers."""

    lanes: int
    first: dict[int, int]

    def __call__(self, block: int) -> bool:
        first = self.first.get(block % self.lanes)
        return first is not None and block >= first


def _loaded(blocks: BlockDataset, workers: int) -> Generator[Block, None, None]:
    """The blocks, as so many processes make them; these end with it, whether it is closed or fails."""
    loader = DataLoader(
        blocks,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_prepare_worker,
        prefetch_factor=2 if workers else None,
    )
    arriving = iter(loader)
    try:
        for block in arriving:
            if isinstance(block, SourceError):
                raise block
            yield block
    finally:
        if workers:
            _end_workers(arriving)


def _end_workers(arriving: Any) -> None:
    """Ends the workers of a DataLoader's iterator.

    It would do so itself once nothing holds it, but an error's traceback does, up to the end of the interpreter. That
    waits for them, and they are deaf to its signal.
    """
    arriving._shutdown_workers()
    for worker in arriving._workers:
        # One that is still at work after the seconds that it was given.
        worker.kill()


def _as_it_is(block: Any) -> Any:
    return block


def _prepare_worker(worker: int) -> None:
    """What a terminal or a scheduler sends to all processes is for the main one, which saves and then ends these.

    Where that one was killed, nobody would: a worker looks for it by itself.
    """
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)


def _follow(parent: int) -> None:
    """Ends this process when it has lost its parent."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
