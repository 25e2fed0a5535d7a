"""Unit costs of reading a corpus, and what they are at the size of terabytes.

Measured in one process on real texts, as processor time: tokenizing, reading documents in their order, and making
blocks of packed rows with and without an index. The tables multiply these costs. The diversity of optimizer steps and
the balance of ranks are measured on synthetic documents.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, cast

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.data.block_index import BlockIndex, write_block_index
from llm_jp_modernbert.training.data.blocks import BlockMaker, BlockSettings
from llm_jp_modernbert.training.data.masking import Masking
from llm_jp_modernbert.training.data.order import Sample, Source
from llm_jp_modernbert.training.data.readers import Document, Rows
from llm_jp_modernbert.training.data.sources import sources_of
from llm_jp_modernbert.training.data.stream import BatchInfo, BatchStream
from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions, tokenize_corpus

from ..measure import environment, write_json
from ..models import DATA_VARIABLE, find_data
from .balance import slowest_rank

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GPUS, _NODES = (16, 128, 1024), (1, 16, 64)
_BALANCED_GPUS = (16, 32, 64, 128)
_BLOCK_CHARACTERS = 500_000  # smaller than in recipes, so that a small corpus has many blocks

# Synthetic files for the diversity of steps: as in stage 1, a step has about as many documents as a block and takes
# them from the blocks of several lanes. Every file has one of ten sources, with these numbers of files.
_FILES = (500, 200, 100, 50, 50, 30, 30, 20, 10, 10)
_TOKENS, _ROW, _STEP, _LANES = 14, 64, 1024, 4
_INTERLEAVE = (8, 64, 256)


@dataclass(frozen=True)
class SyntheticFile:
    """An endless file of documents with equal lengths."""

    name: str

    def read(self, start: int) -> Rows:
        """See `order.Shard`."""
        ids = np.zeros(_TOKENS, dtype=np.int32)
        return (Document("", self.name, row, row, _TOKENS, ids) for row in count(start + 1))

    def sample(self, length: int) -> Sample:
        """See `order.Shard`."""
        return {"size": 0, "sha256": ""}


@dataclass(frozen=True)
class Diversity:
    """Contents of an optimizer step, as means over steps.

    Attributes:
        documents: number of documents.
        files: number of files with at least one document.
        sources: number of sources with at least one document.
        difference: total variation distance between the shares of the sources in the step and in the corpus.
    """

    documents: float
    files: float
    sources: float
    difference: float


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
    loaded = load_tokenizer(found.tokenizer)
    steps = {f"interleave={number}": diversity(loaded, number) for number in _INTERLEAVE}
    steps["shuffled corpus"] = shuffled_diversity()
    mixed = Table("a step of", "documents", "files", "sources", "difference of the shares of sources", box=None)
    for name, mean in steps.items():
        mixed.add_row(
            name, f"{mean.documents:,.0f}", f"{mean.files:,.0f}", f"{mean.sources:.1f}", f"{mean.difference:.1%}"
        )
    console.print(mixed)
    balance = {gpus: slowest_rank(gpus) for gpus in _BALANCED_GPUS}
    waiting = Table("GPUs", "slowest in a step: attention pairs", "operations", box=None)
    for gpus, (random, balanced) in balance.items():
        waiting.add_row(
            str(gpus),
            f"{random.pairs:.2f} × the mean, {balanced.pairs:.2f} balanced",
            f"{random.operations:.3f} × the mean, {balanced.operations:.3f} balanced",
        )
    console.print(waiting)
    if out is not None:
        diversities = {name: vars(mean) for name, mean in steps.items()}
        slowest = {gpus: [vars(random), vars(balanced)] for gpus, (random, balanced) in balance.items()}
        write_json(
            out,
            {**environment(), "costs": vars(costs), "tokens": tokens, "diversity": diversities, "slowest": slowest},
        )


def diversity(tokenizer: PreTrainedTokenizerBase, interleave: int, seeds: int = 64) -> Diversity:
    """The contents of the steps of a run on synthetic files.

    Args:
        tokenizer: any tokenizer; the documents have token ids.
        interleave: number of files that give documents in turn.
        seeds: number of runs, each with other files.
    """
    source = Source([SyntheticFile(str(number)) for number in range(sum(_FILES))])
    masking = Masking(cast(int, tokenizer.mask_token_id), len(tokenizer), tokenizer.all_special_ids)
    rows = _STEP * (_TOKENS + 2) // _ROW
    steps = []
    for seed in range(seeds):
        settings = BlockSettings(_ROW, characters=_STEP * _TOKENS, interleave=interleave, seed=seed)
        stream = BatchStream(BlockMaker([source], settings, tokenizer), masking, lambda _: rows, lanes=_LANES)
        for batch in islice(stream.batches(), _LANES):
            info: BatchInfo = batch["info"]
            steps.append(info.samples[:, 2])
    return _mean_diversity(steps)


def shuffled_diversity() -> Diversity:
    """The contents of 1,000 steps whose documents are drawn from all files."""
    draw = np.random.default_rng(0)
    return _mean_diversity([draw.integers(sum(_FILES), size=_STEP) for _ in range(1000)])


def _mean_diversity(steps: Sequence[npt.NDArray[np.int64]]) -> Diversity:
    """The mean of steps, given as `(documents,)` the file of each document."""
    sources, corpus = np.repeat(np.arange(len(_FILES)), _FILES), np.array(_FILES) / sum(_FILES)
    measured = []
    for files in steps:
        counts = np.bincount(sources[files], minlength=len(corpus))
        difference = np.abs(counts / len(files) - corpus).sum() / 2
        measured.append([float(len(files)), float(len(np.unique(files))), float(np.count_nonzero(counts)), difference])
    return Diversity(*np.mean(measured, axis=0).tolist())


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
