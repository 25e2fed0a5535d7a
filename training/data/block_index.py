"""Positions at which blocks begin, so that a worker reads the documents of its own blocks only.

Without an index, each worker reads all documents in their order to find its blocks. One pass over the corpus, which
reads lengths and tokenizes nothing, finds the positions for all runs with the same data, seed and block settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock, write_whole
from llm_jp_modernbert.core.progress import progress_bar
from llm_jp_modernbert.core.terminal import console

from .blocks import BlockMaker, BlockSettings
from .order import Position, ShardList, Source, changed_shards, shard_list

logger = logging.getLogger(__name__)

# Numbers of a `Position`, before the index and the number of rows read of every open shard; -1 if fewer are open.
_NUMBERS = 5
# Settings that decide where blocks begin.
_DECISIVE = ("seed", "shuffle", "characters", "interleave")
_POSITIONS, _DATA = "positions", "data"
_SAVE_SECONDS = 60.0
_REMEDY = "Write another with llm-jp-modernbert index-blocks."


class BlockIndex:
    """The positions of the first blocks of a run, read from a file when needed.

    Args:
        path: a file written by `write_block_index`.

    Raises:
        UsageError: it is missing or not such a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with safe_open(self.path, "numpy") as file:
                self._data: dict[str, Any] = json.loads(file.metadata()[_DATA])
                self._slice = file.get_slice(_POSITIONS)
        except FileNotFoundError:
            raise UsageError(
                f"block_index: {self.path} does not exist. Write it with llm-jp-modernbert index-blocks."
            ) from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"block_index: {self.path} is not an index of blocks ({error}).") from error

    def __len__(self) -> int:
        """Number of blocks."""
        return int(self._slice.get_shape()[0])

    def position(self, number: int) -> list[Position]:
        """The position at which a block begins, see `DocumentOrder.state`."""
        return [_to_position(row) for row in self._slice[number : number + 1][0].tolist()]

    def check(self, sources: Sequence[Source], settings: BlockSettings, shards: Sequence[ShardList]) -> None:
        """Checks that the index belongs to the data and settings of a run.

        Args:
            sources: the sources of the run.
            settings: its settings.
            shards: `shard_list` of the sources.

        Raises:
            UsageError: it belongs to other data or settings.
        """
        saved, now = self._data["settings"], _settings(sources, settings)
        for key, value in now.items():
            if saved.get(key) != value:
                raise UsageError(
                    f"block_index: {self.path} was written with {key}={saved.get(key)}, but this run has {value}. "
                    f"{_REMEDY}"
                )
        changed = changed_shards(self._data["shards"], shards, sources)
        if changed:
            raise UsageError(f"block_index: {self.path}: {changed} since it was written. {_REMEDY}")


def write_block_index(maker: BlockMaker, path: Path, epochs: int = 1) -> int:
    """Writes the positions of all blocks that begin in the first epochs, about 170 bytes per block.

    An interrupted or shorter index is continued.

    Args:
        maker: makes the blocks of the run.
        path: the file.
        epochs: how often each source is read.

    Returns:
        The number of blocks.

    Raises:
        UsageError: the file exists and does not index these blocks.
        SourceError: see `DocumentOrder`.
    """
    sources, settings = maker.sources, maker.settings
    shards = [shard_list(source) for source in sources]
    positions: list[npt.NDArray[np.int64]] = []
    with lock(path, "index-blocks"):
        if path.exists():
            index = BlockIndex(path)
            index.check(sources, settings, shards)
            positions = [_to_row(index.position(number), settings.interleave) for number in range(len(index))]
            logger.info("continuing %s after %d blocks", path, len(index))
        data = {_DATA: json.dumps({"settings": _settings(sources, settings), "shards": shards})}

        def save_positions() -> None:
            write_whole(path, save({_POSITIONS: np.stack(positions)}, data))

        begin = [_to_position(row) for row in positions[-1].tolist()] if positions else None
        first = max(0, len(positions) - 1)
        saved = start = time.monotonic()
        with progress_bar(console(), "{task.fields[rate]}") as bar:
            task = bar.add_task("reading documents", total=1.0, rate="")
            for number, position in maker.begins(first, begin):
                if number == len(positions):
                    positions.append(_to_row(position, settings.interleave))
                done = _epochs(sources, position)
                if (now := time.monotonic()) > saved + _SAVE_SECONDS or done >= epochs:
                    save_positions()
                    saved = now
                millions = (number - first) * settings.characters / 1e6 / max(1e-9, now - start)
                rate = f"{number:,} blocks, {millions:,.1f}M characters/s"
                bar.update(task, completed=min(1.0, done / epochs), rate=rate)
                if done >= epochs:
                    break
    return len(positions)


def _settings(sources: Sequence[Source], settings: BlockSettings) -> dict[str, Any]:
    described = {key: value for key, value in asdict(settings).items() if key in _DECISIVE}
    for key in ("weight", "min_characters", "max_characters"):
        described[key] = [getattr(source, key) for source in sources]
    described["exclude_data"] = [_digest(source.excluded) for source in sources]
    return described


def _digest(excluded: Collection[bytes]) -> str | None:
    return hashlib.sha256(b"".join(sorted(excluded))).hexdigest()[:16] if excluded else None


def _epochs(sources: Sequence[Source], position: list[Position]) -> float:
    """How often every source has been read."""
    return min(
        part["epoch"] + (part["opened"] - len(part["open"])) / len(source.shards)
        for part, source in zip(position, sources, strict=True)
    )


def _to_row(position: list[Position], interleave: int) -> npt.NDArray[np.int64]:
    """`(sources, 5 + 2 * interleave)`."""
    rows = np.full((len(position), _NUMBERS + 2 * interleave), -1, dtype=np.int64)
    for row, part in zip(rows, position, strict=True):
        numbers = [part["epoch"], part["opened"], part["turn"], part["given"], part["characters"]]
        numbers += [value for shard in part["open"] for value in shard]
        row[: len(numbers)] = numbers
    return rows


def _to_position(row: list[int]) -> Position:
    epoch, opened, turn, given, characters, *shards = row
    return {
        "epoch": epoch,
        "opened": opened,
        "open": [(shard, end) for shard, end in zip(shards[::2], shards[1::2], strict=True) if shard >= 0],
        "turn": turn,
        "given": given,
        "characters": characters,
    }
