"""What the commands about the Hub show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from llm_jp_modernbert.core.hub import Checkpoint

    from .pull import Pulled
    from .release import Released, ReleaseOptions


def show_release(released: Released, options: ReleaseOptions, console: Console) -> None:
    """The masks that a release fills, its files, and where it is."""
    table = Table("masked text", "filled by the release", box=None)
    for one in released.examples:
        table.add_row(Text(one.text), Text("  ".join(f"{answer} {share:.0%}" for answer, share in one.answers)))
    console.print(table)
    files = Table("file", "size", box=None)
    for path, size in released.files.items():
        files.add_row(Text(path), Text(_size(size), justify="right"))
    console.print(files)
    console.print(f"transformers alone gives the source's logits within {released.difference:.1e}.", highlight=False)
    if released.commit is None:
        told = f"Nothing was sent: the release is in {options.dry_run}."
    elif released.is_new:
        told = f"Released as {options.repository}@{options.revision}, commit {released.commit[:12]}."
    else:
        told = f"{options.repository}@{options.revision} holds all of it already: no new commit."
    console.print(told, highlight=False, soft_wrap=True)


def show_pulled(pulled: Pulled, console: Console) -> None:
    """What was pulled, where it is, and how it is used."""
    from .pull import describe

    table = Table(box=None, show_header=False)
    for name, value in {"commit": pulled.commit, **describe(pulled.folder)}.items():
        table.add_row(name, Text(value))
    console.print(Text(pulled.name, style="bold"))
    console.print(table)
    listed = f", {pulled.listed:,} as the release lists them" if pulled.listed is not None else ""
    console.print(f"{pulled.checked:,} files are as the Hub lists them{listed}.", highlight=False)
    if pulled.left_out:
        console.print(
            Text(f"Left out, since loading them can run code: {', '.join(pulled.left_out)}."), soft_wrap=True
        )
    console.print(Text(f"They are in {pulled.folder}"), soft_wrap=True)


def show_checkpoints(found: Sequence[Checkpoint], repository: str, console: Console) -> None:
    """A table, and how one of them is named."""
    if not found:
        console.print(f"{repository} has no checkpoints as revisions.", highlight=False)
        return
    table = Table("revision", "stage", "step", "tokens", "commit", box=None)
    for one in found:
        tokens = "–" if one.tokens is None else f"{one.tokens:,}"
        table.add_row(Text(one.revision), Text(one.stage), f"{one.step:,}", tokens, one.commit[:12])
    console.print(table)
    console.print(Text(f"Every command takes one as {repository}@{found[-1].revision}."), soft_wrap=True)


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
