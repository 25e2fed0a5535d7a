"""How full packed rows are, and what padding the same documents would cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from ..texts import stream_of


def benchmark(
    files: Annotated[list[str], typer.Argument(help="Texts, or a tokenised corpus.")],
    tokenizer: Annotated[str, typer.Option()],
    rows: Annotated[int, typer.Option(help="Rows of a padded batch.", min=1)] = 16,
) -> None:
    """Packing efficiency over a whole epoch, at 1024 and 8192 tokens."""
    table = Table("row", "documents", "pieces", "tokens", "packed", "one piece a row, padded to the longest", box=None)
    for length in (1024, 8192):
        maker = stream_of(files, tokenizer, length, rows, characters=4_000_000).maker
        documents = pieces = tokens = room = cells = 0
        for block in maker.blocks(threads=2):
            if block.places[0, 1] > 0:
                break
            documents += len(block.rows.corpus)
            pieces += len(block.rows.lengths)
            tokens += block.rows.total_tokens
            room += len(block.rows) * length
            sizes = block.rows.lengths + 2
            cells += sum(int(part.max()) * len(part) for part in _parts(sizes, rows))
        shares = f"{tokens / room:.2%}", f"{tokens / cells:.1%}"
        table.add_row(f"{length:,}", f"{documents:,}", f"{pieces:,}", f"{tokens:,}", *shares)
    Console().print(table)


def _parts(sizes: npt.NDArray[np.int64], rows: int) -> Iterator[npt.NDArray[np.int64]]:
    return (sizes[first : first + rows] for first in range(0, len(sizes), rows))
