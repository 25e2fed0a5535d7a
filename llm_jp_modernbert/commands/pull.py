"""`llm-jp-modernbert pull`: downloads and checks a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def pull(
    repository: Annotated[str, typer.Argument(help="ORG/NAME, or ORG/NAME@REVISION.")],
    out: Annotated[Path | None, typer.Option(help="Folder to copy it to; by default it stays in the cache.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Downloads a model, holds every file against its sum, and says what it is; offline it then loads by its name.

    Examples:

    * `llm-jp-modernbert pull llm-jp/llm-jp-modernbert-base`

    * `llm-jp-modernbert pull ORG/NAME@stage1-step-100000 --out my-model`
    """
    from llm_jp_modernbert.core.hub import Patience
    from llm_jp_modernbert.inference.loading import split_revision
    from llm_jp_modernbert.publishing.pull import pull as run
    from llm_jp_modernbert.publishing.screen import show_pulled

    console = Console()
    name, at = split_revision(repository, revision)
    show_pulled(run(name, at, out, Patience(say=lambda line: console.print(line, highlight=False))), console)
