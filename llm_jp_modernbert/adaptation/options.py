"""Options of `adapt`; imports nothing heavy, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

Files = list[str]

MOST_HELD_OUT = 256
"""Maximum number of documents to measure on."""

REPLAY_SHARE = 0.25
"""Share of general text, if there is any."""

EPOCHS = 2.0
"""Passes over the texts of the domain, if nothing else limits the training."""

_FORMS = (
    ".jsonl, .txt (blank lines separate documents), either with .gz or .zst, or .parquet; a directory of them, a glob "
    "pattern in quotes, or a Hub dataset (ORG/NAME). Repeatable."
)


@dataclass(frozen=True)
class AdaptOptions:
    """Options of `adapt`."""

    base: Annotated[str, typer.Argument(help="Masked language model: a directory, ORG/NAME or ORG/NAME@REV.")]
    overrides: Annotated[
        list[str],
        typer.Argument(
            metavar="[KEY=VALUE]…",
            help="Any key of the recipe adapt, such as mlm_probability=0.2, learning_rate=1e-4 or max_steps=500.",
        ),
    ] = field(default_factory=list)
    train: Annotated[Files, typer.Option(help=f"Texts of the domain: {_FORMS}")] = field(default_factory=list)
    replay: Annotated[
        Files,
        typer.Option(
            help="General text to mix in, against forgetting. Repeatable: each has the same share.",
            show_default="none",
        ),
    ] = field(default_factory=list)
    replay_share: Annotated[
        float | None,
        typer.Option(
            help="Share of --replay in the training text, between 0 and 1.", show_default=f"{REPLAY_SHARE:g}"
        ),
    ] = None
    validation: Annotated[
        Files,
        typer.Option(help="Texts of the domain to measure on.", show_default="a tenth of --train"),
    ] = field(default_factory=list)
    general: Annotated[
        Files,
        typer.Option(
            help="General text to measure forgetting on.",
            show_default="a tenth of --replay",
        ),
    ] = field(default_factory=list)
    out: Annotated[Path, typer.Option(help="Directory of the model. A rerun of the same command continues.")] = Path(
        "adapted"
    )
    text_column: Annotated[str, typer.Option(help="JSON key or column that holds the text.")] = "text"
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the texts of the domain.",
            show_default=f"{EPOCHS:g}, or until --max-tokens, max_steps or max_minutes",
        ),
    ] = None
    max_tokens: Annotated[
        int | None, typer.Option(help="Maximum number of training tokens.", min=1, show_default="no limit")
    ] = None
    seed: Annotated[int, typer.Option(help="Random seed, also of the held-out documents.", min=0, max=2**31 - 1)] = 42
