"""`llm-jp-modernbert quickstart`: the demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llm_jp_modernbert.core.errors import UsageError


def quickstart(
    files: Annotated[
        list[str] | None, typer.Argument(help="More files for --data, so that `--data corpus/*.gz` works.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Your own texts: .jsonl, .txt (documents parted by blank lines), either with .gz, or .parquet; a "
            "folder of them, or a pattern in quotes. By default a small corpus that is part of the package."
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="JSON key or Parquet column that holds the text.")] = "text",
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="SentencePiece .model of llm-jp-tokenizer, directory or repository. By default a small "
            "vocabulary is trained on the texts."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory to write the model to.")] = Path("quickstart-model"),
    force: Annotated[bool, typer.Option("--force", help="Replace a model that quickstart made there.")] = False,
    minutes: Annotated[float, typer.Option(help="How long to train at most.", min=0.01)] = 2.5,
    steps: Annotated[
        int | None,
        typer.Option(help="Train for so many steps however long it takes: the same result anywhere.", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and masks.", min=0)] = 0,
) -> None:
    """From raw Japanese text to a small trained model that plain transformers loads, in minutes.

    Trains a tokenizer, packs the texts, pre-trains at a short context, extends to a long one, measures the masked
    accuracy on held-out text before and after, saves, and fills five masks.

    Examples:

    * `llm-jp-modernbert quickstart`

    * `llm-jp-modernbert quickstart --data texts.jsonl.gz --tokenizer llm-jp-tokenizer-100k.ver3.0b1.model`
    """
    if files and not data:
        raise UsageError(f"{files[0]}: texts of your own are named with --data {' '.join(files)}")
    from llm_jp_modernbert.quickstart.quickstart import QuickstartOptions, run_quickstart

    options = QuickstartOptions(
        data=(*(data or ()), *(files or ())),
        text_column=text_column,
        tokenizer=tokenizer,
        out=out,
        force=force,
        minutes=minutes,
        steps=steps,
        seed=seed,
    )
    run_quickstart(options, Console())
