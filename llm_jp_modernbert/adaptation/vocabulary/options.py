"""Options of `vocabulary trim` and `vocabulary extend`; imports nothing heavy, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

NEW_TOKENS = 1000


@dataclass(frozen=True)
class VocabularyOptions:
    """Options that both commands share."""

    model: Annotated[str, typer.Argument(help="Model to change: a directory, ORG/NAME or ORG/NAME@REV.")]
    texts: Annotated[
        list[str],
        typer.Option(help="Texts of the domain: files, directories, patterns or a Hub dataset. Repeatable."),
    ]
    out: Annotated[Path, typer.Option(help="Directory of the new model.")]
    validation: Annotated[
        list[str],
        typer.Option(help="Held-out texts to measure on.", show_default="a share of the texts"),
    ] = field(default_factory=list)
    text_column: Annotated[str, typer.Option(help="JSON key or column that holds the text.")] = "text"
    seed: Annotated[int, typer.Option(help="Seed of the held-out texts and of the masks.", min=0, max=2**31 - 1)] = 42
    device: Annotated[str | None, typer.Option(help="Device to measure on.", show_default="a GPU if available")] = None


@dataclass(frozen=True)
class TrimOptions(VocabularyOptions):
    """Options of `vocabulary trim`."""

    size: Annotated[
        int | None, typer.Option(help="Number of tokens that stay.", min=1, show_default="those in use")
    ] = None
    share: Annotated[
        float | None,
        typer.Option(help="Share of the tokens that stay, such as 0.5, in place of --size.", min=0, max=1),
    ] = None
    min_count: Annotated[
        int | None,
        typer.Option(help="Remove tokens with fewer uses.", min=0, show_default="1; 0 with --size or --share"),
    ] = None


@dataclass(frozen=True)
class ExtendOptions(VocabularyOptions):
    """Options of `vocabulary extend`."""

    terms: Annotated[
        Path | None, typer.Option(help="File with a term per line.", show_default="found in the texts")
    ] = None
    new_tokens: Annotated[
        int | None, typer.Option(help="Number of terms to find.", min=1, show_default=f"{NEW_TOKENS:,}")
    ] = None
