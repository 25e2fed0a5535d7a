"""`llm-jp-modernbert checkpoints`: lists the checkpoints of a repository."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def checkpoints(
    repository: Annotated[str, typer.Argument(help="Repository on the Hub (ORG/NAME).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Lists the training checkpoints that a repository stores as revisions, by stage and step.

    Every command that takes a model accepts a checkpoint as ORG/NAME@REVISION.

    Examples:

    * `llm-jp-modernbert checkpoints ORG/NAME`
    """
    from huggingface_hub import HfApi

    from llm_jp_modernbert.core.hub import checkpoints as run
    from llm_jp_modernbert.core.hub_errors import one_line_errors
    from llm_jp_modernbert.core.terminal import printable

    with one_line_errors(repository):
        results = run(HfApi(), repository)
    if as_json:
        print(printable(json.dumps([asdict(checkpoint) for checkpoint in results], ensure_ascii=False, indent=2)))
        return
    console = Console()
    if not results:
        console.print(f"{repository} has no checkpoints.", highlight=False)
        return
    table = Table("revision", "stage", "step", "tokens", "commit", box=None)
    for checkpoint in results:
        tokens = "–" if checkpoint.tokens is None else f"{checkpoint.tokens:,}"
        stage, step = Text(printable(checkpoint.stage)), f"{checkpoint.step:,}"
        table.add_row(Text(printable(checkpoint.revision)), stage, step, tokens, printable(checkpoint.commit[:12]))
    console.print(table)
    console.print(Text(printable(f"Load one as {repository}@{results[-1].revision}.")), soft_wrap=True)
