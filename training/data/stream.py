"""The batches of a run: an endless, resumable sequence of rows, shared by any number of ranks and workers.

The rows of the whole run are numbered; the number of a row depends on the data, the seed and the settings alone.
Rank r of R takes row r of every batch and every R-th row after it. One process with the same global batch size trains
on the same rows as several, and a run can be resumed with another number of ranks.

To spread the tokenization over ranks, blocks are dealt to L lanes, block b to lane b mod L, and row n is the next row
of lane n mod L. If R divides L, each rank makes the blocks of L / R lanes only. Blocks have equal numbers of
characters, so lanes drift apart by less than a block.

The state of a rank is the number of the next row and, per lane, the position at which its current block begins.
Positions are indices of shards and rows, so the state also has a fingerprint of the lists of shards.
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
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing import parent_process
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import NotRequired, TypedDict

from llm_jp_modernbert.core.errors import UsageError

from .blocks import Block, BlockMaker
from .masking import IGNORED, Masking, sample_keys
from .order import Position, ShardList, changed_shards, shard_list
from .readers import SourceError

# How often a worker checks that its parent is alive.
_PARENT_CHECK_SECONDS = 5.0


@dataclass(frozen=True)
class BatchInfo:
    """Facts about a batch that are not inputs of the model.

    Attributes:
        samples: `(pieces, 5)` int64: source, epoch, shard and row of every piece's document, and its first token.
        lengths: `(pieces,)` int64 tokens of each piece, special tokens included.
        labels: number of predicted tokens.
        padded_tokens: number of tokens of the batch if it were padded to its longest row.
        room: capacity of its rows, in tokens.
        blocks: blocks that begin in this batch; among ranks that share a lane, only the first one lists them.
        state: state of the stream after the last batch of an optimizer step; None for the other batches.
    """

    samples: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    labels: int
    padded_tokens: int
    room: int
    blocks: tuple[Block, ...] = ()
    state: StreamState | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens in the batch, special tokens included."""
        return int(self.lengths.sum())

    @property
    def epoch(self) -> int:
        """The latest epoch of any source."""
        return int(self.samples[:, 1].max())


class LaneState(TypedDict):
    """`_Lane` as JSON values."""

    block: int
    begin: list[Position] | None
    base: int
    reported: int


class StreamState(TypedDict):
    """State of a rank's stream as JSON values: next row and step, shards (if known), and lanes by number."""

    rows: int
    step: int
    sources: NotRequired[list[ShardList]]
    lanes: dict[str, LaneState]


@dataclass
class _Lane:
    """State of a lane.

    Attributes:
        block: number of the current block.
        begin: position at which it begins.
        base: number of the lane's rows before it.
        reported: number of the last block listed in a `BatchInfo`.
    """

    block: int
    begin: list[Position] | None = None
    base: int = 0
    reported: int = -1


class BatchStream:
    """An endless sequence of packed, masked batches for one rank.

    Args:
        maker: makes the blocks.
        masking: masks the rows.
        rows: number of rows per rank and batch, as a function of the optimizer step from 0.
        probability: masking probability as a function of the step; None for that of `masking`.
        rank: rank of this process.
        ranks: number of ranks.
        lanes: number of lanes that blocks are dealt to.
        workers: number of processes that prepare blocks; 0 prepares them in this process.
        prefetch: number of blocks that each process prepares ahead.
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
        prefetch: int = 2,
    ) -> None:
        self.maker, self.masking, self.rows, self.probability = maker, masking, rows, probability
        self.rank, self.ranks, self.lanes = rank, ranks, lanes
        self.workers, self.prefetch = workers, prefetch
        self.step = 0
        self._next_row = 0
        self._lanes = {lane: _Lane(lane) for lane in self._lanes_of_rank()}
        # At the start: files that are edited during the run differ from those of its checkpoints.
        self._shards = [shard_list(source, sampled=rank == 0) for source in maker.sources]
        if maker.index is not None:
            maker.index.check(maker.sources, maker.settings, self._shards)

    def _lanes_of_rank(self) -> list[int]:
        """The lanes of this rank's rows: every gcd(lanes, ranks)-th one, counted from the next row."""
        common = math.gcd(self.lanes, self.ranks)
        return list(range((self._next_row + self.rank) % common, self.lanes, common))

    def state_dict(self) -> StreamState:
        """The state of this rank as JSON values; call it between two optimizer steps."""
        return {
            "rows": self._next_row,
            "step": self.step,
            "sources": self._shards,
            # Copies, but of the lanes alone: positions are replaced, never changed.
            "lanes": {str(number): cast(Any, dict(vars(lane))) for number, lane in self._lanes.items()},
        }

    def load_state_dict(self, states: Sequence[StreamState]) -> None:
        """Resumes a run, with the same or another number of ranks.

        Args:
            states: `state_dict` of every rank of the run.

        Raises:
            UsageError: the states belong to another number of lanes, or to other files.
        """
        self._next_row, self.step = states[0]["rows"], states[0]["step"]
        # Reversed: the first of the ranks that share a lane knows which blocks were reported.
        saved = {int(number): lane for state in reversed(states) for number, lane in state["lanes"].items()}
        if set(saved) != set(range(self.lanes)):
            raise UsageError(
                f"data_lanes={self.lanes}, but the checkpoint has {len(saved)}. Resume with data_lanes={len(saved)}."
            )
        # Checkpoints of earlier versions do not list their shards.
        saved_shards = states[0].get("sources")
        changed = saved_shards and changed_shards(saved_shards, self._shards, self.maker.sources)
        if changed:
            raise UsageError(
                f"train_data: {changed} since the checkpoint, so the position in it is lost. Resume with the same "
                "files, or train on these in another output_dir with init_from."
            )
        self._lanes = {number: _Lane(**saved[number]) for number in self._lanes_of_rank()}

    def batches(self, accumulation: int = 1) -> Generator[dict[str, Any], None, None]:
        """Yields batches from the current position; the state advances with them.

        Args:
            accumulation: number of batches per optimizer step.

        Returns:
            `input_ids` and `labels` `(1, total_tokens)` int64, `label_positions` `(predicted,)` int64, `cu_seqlens`
            `(pieces + 1,)` int32, `max_seqlen` int, and `info`, a `BatchInfo` that must be removed before the batch is
            passed to the model.

        Raises:
            SourceError: see `read_documents`.
        """
        first = {number: lane.block for number, lane in self._lanes.items()}
        earliest = min(self._lanes.values(), key=lambda lane: lane.block)
        # The position of an unread lane's first block is unknown: read everything from the beginning.
        unread = any(lane.begin is None for lane in self._lanes.values())
        blocks = _BlockDataset(
            self.maker, self.lanes, first, 0 if unread else earliest.block, None if unread else earliest.begin
        )
        loaded = _load(blocks, self.workers, self.prefetch)
        # Also at exit, where torch would wait for workers that ignore its signal. Registered last, called first.
        atexit.register(loaded.close)
        begun: list[Block] = []
        rows = self._rows(loaded, begun)
        try:
            while True:
                size = self.rows(self.step)
                probability = None if self.probability is None else self.probability(self.step)
                for micro in range(accumulation):
                    chosen = list(islice(rows, size))
                    self._next_row += size * self.ranks
                    # Before the yield: the state after the last batch of a step belongs to the next step.
                    self.step += micro == accumulation - 1
                    state = self.state_dict() if micro == accumulation - 1 else None
                    batch = self._batch(chosen, probability, tuple(begun), state)
                    begun.clear()
                    yield batch
        finally:
            loaded.close()
            atexit.unregister(loaded.close)

    def _rows(self, blocks: Iterator[Block], begun: list[Block]) -> Iterator[tuple[Block, int]]:
        """Yields the block and row of each of this rank's rows; adds the blocks to report to `begun`."""
        waiting: dict[int, deque[Block]] = {number: deque() for number in self._lanes}
        current: dict[int, Block] = {}
        reports = self.rank < math.gcd(self.lanes, self.ranks)
        for row in count(self._next_row + self.rank, self.ranks):
            number, position = row % self.lanes, row // self.lanes
            lane = self._lanes[number]
            while number not in current or position - lane.base >= len(current[number]):
                if number in current:
                    lane.base += len(current[number])
                while not waiting[number]:
                    block = next(blocks)
                    waiting[block.number % self.lanes].append(block)
                block = current[number] = waiting[number].popleft()
                if self.maker.settings.balanced_rows:
                    # Here, because the groups begin where steps do.
                    block.balance(self.maker.settings.balanced_rows, lane.base)
                lane.block, lane.begin = block.number, block.begin
                if reports and block.number > lane.reported:
                    begun.append(block)
                    lane.reported = block.number
            block = current[number]
            yield block, int(block.order[position - lane.base])

    def _batch(
        self,
        chosen: Sequence[tuple[Block, int]],
        probability: float | None,
        begun: tuple[Block, ...],
        state: StreamState | None,
    ) -> dict[str, Any]:
        rows = [block.rows.row(row) for block, row in chosen]
        ids, lengths = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        samples = np.concatenate([block.samples(block.rows.pieces(row)) for block, row in chosen])
        keys = sample_keys(self.maker.settings.seed, samples)
        words = None
        if self.maker.settings.whole_word:
            # The value at CLS and SEP is irrelevant: special tokens are never masked.
            words = np.concatenate([block.rows.gather(row, cast(Any, block.words), 0, 0)[0] for block, row in chosen])
        inputs, labels = self.masking(ids, lengths, keys, words, probability)
        predicted = np.flatnonzero(labels != IGNORED)
        info = BatchInfo(
            samples,
            lengths,
            len(predicted),
            max(len(ids) for ids, _ in rows) * len(rows),
            len(rows) * self.maker.settings.sequence_length,
            begun,
            state,
        )
        return {
            "input_ids": torch.from_numpy(inputs)[None],
            "labels": torch.from_numpy(labels)[None],
            # So that the model need not search them on the device, which would wait for it.
            "label_positions": torch.from_numpy(predicted),
            "cu_seqlens": torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
            "max_seqlen": int(lengths.max()),
            "info": info,
        }


class _BlockDataset(IterableDataset["Block | SourceError"]):
    """The blocks of a rank's lanes, dealt in turn to the workers of a DataLoader.

    Every worker reads all documents to find its own blocks, unless the maker has an index. A SourceError is yielded
    instead of raised, because a DataLoader would replace its message for the user by a traceback.

    Args:
        maker: makes the blocks.
        lanes: number of lanes of the run.
        first_blocks: first block that is still needed of each lane of this rank.
        first: number of the block to start reading at.
        begin: position at which that block begins.
    """

    def __init__(
        self,
        maker: BlockMaker,
        lanes: int,
        first_blocks: dict[int, int],
        first: int,
        begin: list[Position] | None,
    ) -> None:
        self.maker, self.lanes, self.first_blocks = maker, lanes, first_blocks
        self.first, self.begin = first, begin

    def __iter__(self) -> Iterator[Block | SourceError]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        lanes = self.first_blocks
        needed = (number for number in count(self.first) if number >= lanes.get(number % self.lanes, number + 1))
        threads = torch.get_num_threads() if info is None else 1
        try:
            yield from self.maker.blocks(islice(needed, worker, None, workers), self.first, self.begin, threads)
        except SourceError as error:
            yield error


def _load(blocks: _BlockDataset, workers: int, prefetch: int) -> Generator[Block, None, None]:
    """Yields blocks made by worker processes, which end when the generator is closed or fails."""
    loader = DataLoader(
        blocks,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_prepare_worker,
        prefetch_factor=prefetch if workers else None,
        # Without its own, it draws from the generator of the training.
        generator=torch.Generator(),
    )
    iterator: Any = iter(loader)
    try:
        for block in iterator:
            if isinstance(block, SourceError):
                raise block
            yield block
    finally:
        if workers:
            # DataLoader ends its workers only when it is deleted, but the traceback of an error may keep it alive.
            iterator._shutdown_workers()
            for process in iterator._workers:
                # Still alive after the shutdown timeout.
                process.kill()


def _prepare_worker(worker: int) -> None:
    """Makes a worker ignore signals to the process group: the main process saves first and then ends its workers."""
    # Not os.getppid(), which is another process if the parent has already ended.
    threading.Thread(target=_exit_with_parent, args=(parent_process().pid,), daemon=True).start()  # type: ignore[union-attr]
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)
