"""Options that several cases have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llm_jp_modernbert.core.errors import UsageError

Shape = Annotated[Literal["nano", "small", "base"], typer.Option(help="Of the models.")]
Dtype = Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of weights and activations.")]
Repeats = Annotated[int, typer.Option(help="Turns that count.", min=1)]
Out = Annotated[Path | None, typer.Option(help="File for the JSON.", dir_okay=False)]
Outs = Annotated[Path | None, typer.Option(help="File for the JSON; each case adds its name.", dir_okay=False)]


def whole_numbers(option: str, typed: str) -> tuple[int, ...]:
    """Numbers that are parted by commas.

    Args:
        option: that they were given by.
        typed: what was given.

    Raises:
        UsageError: one of them is no whole number above zero.
    """
    parts = [part.strip() for part in typed.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"{option} {typed}: give whole numbers above zero, parted by commas.")
    return tuple(int(part) for part in parts)


def beside(out: Path | None, part: str) -> Path | None:
    """The file of one case of several: `table.json` and `1024` make `table-1024.json`."""
    return None if out is None else out.with_name(f"{out.stem}-{part}{out.suffix}")
