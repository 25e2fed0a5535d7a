"""Unit costs of reading a corpus, and what they are at the size of terabytes.

Measured in one process on real texts, as processor time: tokenizing, reading documents in their order, and making
blocks of packed rows with and without an index. The tables multiply these costs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.data.block_index import BlockIndex, write_block_index
from llm_jp_modernbert.training.data.blocks import BlockMaker, BlockSettings
from llm_jp_modernbert.training.data.sources import sources_of
from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions, tokenize_corpus

from ..measure import environment, write_json
from ..models import DATA_VARIABLE, find_data

_GPUS, _NODES = (16, 128, 1024), (1, 16, 64)
_BLOCK_CHARACTERS = 500_000  # smaller than in recipes, so that a small corpus has many blocks


@dataclass(frozen=True)
class UnitCosts:
    """Processor time of one core.

    Attributes:
        characters_per_token: of the texts.
        tokenizing: tokens per second.
        reading: tokens per second of documents that are read but not packed.
        packing: tokens per second of blocks that are read and packed.
        seconds_per_jump: time to open a block at a position of the index.
        index_bytes: bytes of the index per block.
    """

    characters_per_token: float
    tokenizing: float
    reading: float
    packing: float
    seconds_per_jump: float
    index_bytes: float


def corpora(
    data: Annotated[Path | None, typer.Option(help="Folder with tokenizer/*.model and corpus/manuals/.")] = None,
    tokens: Annotated[float, typer.Option(help="Tokens of the projected corpus.", min=1)] = 0.69e12,
    tokens_per_second: Annotated[float, typer.Option(help="Training tokens per second of a GPU.", min=1)] = 443_000,
    workers: Annotated[int, typer.Option(help="Data processes of a GPU.", min=1)] = 4,
    cores: Annotated[int, typer.Option(help="Cores of a node.", min=1)] = 64,
    block_characters: Annotated[int, typer.Option(help="Characters of a block of the run.", min=1)] = 8_000_000,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.", dir_okay=False)] = None,
) -> None:
    """Measure what reading a corpus costs, and project it to a large corpus, many nodes and many GPUs."""
    found = find_data(data)
    if found is None:
        raise UsageError(f"The texts need --data or {DATA_VARIABLE}.")
    costs = measure_costs(found.tokenizer, found.corpus)
    console = Console()
    console.print(
        f"one core: {costs.tokenizing:,.0f} tokens/s tokenized, {costs.reading:,.0f} read, {costs.packing:,.0f} "
        f"packed; {1e3 * costs.seconds_per_jump:.0f} ms per jump, {costs.index_bytes:.0f} bytes of index per block"
    )
    preparing = Table("nodes", "tokenizing, hours", "index of blocks, hours (one process)", "index, MB", box=None)
    blocks = tokens * costs.characters_per_token / block_characters
    for nodes in _NODES:
        preparing.add_row(
            str(nodes),
            f"{tokens / costs.tokenizing / cores / nodes / 3600:.2f}",
            f"{tokens / costs.reading / 3600:.1f}",
            f"{blocks * costs.index_bytes / 1e6:.0f}",
        )
    console.print(preparing)
    reading = Table("GPUs", "load of a data process without index", "with index", box=None)
    for gpus in _GPUS:
        without, with_index = loads(costs, gpus, tokens_per_second, workers, block_characters)
        reading.add_row(f"{gpus:,}", f"{without:.1%}", f"{with_index:.1%}")
    console.print(reading)
    if out is not None:
        write_json(out, {**environment(), "costs": vars(costs), "tokens": tokens})


def loads(
    costs: UnitCosts, gpus: int, tokens_per_second: float, workers: int, block_characters: int
) -> tuple[float, float]:
    """Shares of a core that a data process needs without and with an index; above 1, the GPUs wait.

    Args:
        costs: the unit costs.
        gpus: number of GPUs.
        tokens_per_second: training tokens per second of a GPU.
        workers: data processes of a GPU.
        block_characters: characters of a block.
    """
    own = tokens_per_second / workers
    jumps = own * costs.characters_per_token / block_characters * costs.seconds_per_jump
    packing = own / costs.packing
    # The documents of all other processes are read as well.
    return packing + (tokens_per_second * gpus - own) / costs.reading, packing + jumps


def measure_costs(tokenizer: str, corpus: str) -> UnitCosts:
    """Measure the unit costs on the texts of a folder."""
    loaded = load_tokenizer(tokenizer)
    with TemporaryDirectory() as folder:
        tokenized, path = Path(folder) / "tokenized", Path(folder) / "blocks.safetensors"
        with _processor_seconds() as tokenizing:
            totals = tokenize_corpus(TokenizeOptions(files=[corpus], tokenizer=tokenizer, out=str(tokenized)))[
                "totals"
            ]
        tokens, characters = totals["tokens"], totals["characters"]
        sources = sources_of(str(tokenized), "text")
        settings = BlockSettings(1024, characters=_BLOCK_CHARACTERS)
        blocks = write_block_index(BlockMaker(sources, settings, loaded), path)
        with _processor_seconds() as reading:
            for number, _ in BlockMaker(sources, settings, loaded).begins():
                if number == blocks - 1:
                    break
        index = BlockIndex(path)
        last = blocks - 2
        with _processor_seconds() as in_order:
            rows = [block.rows for block in BlockMaker(sources, settings, loaded).blocks(range(last))]
        with _processor_seconds() as jumping:
            for number in range(1, last, 2):
                # A maker of its own for each block, which cannot read on from the one before.
                next(BlockMaker(sources, settings, loaded, index).blocks([number]))
        packed = sum(int(part.lengths.sum()) for part in rows)
        per_block = in_order[0] / last
        jump = max(0.0, jumping[0] / len(range(1, last, 2)) - per_block)
        return UnitCosts(
            characters / tokens,
            tokens / tokenizing[0],
            (blocks - 1) * _BLOCK_CHARACTERS / characters * tokens / reading[0],
            packed / in_order[0],
            jump,
            path.stat().st_size / blocks,
        )


@contextmanager
def _processor_seconds() -> Iterator[list[float]]:
    """The processor time of the block, when it has ended."""
    measured: list[float] = []
    start = time.process_time()
    yield measured
    measured.append(time.process_time() - start)
