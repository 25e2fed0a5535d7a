"""`llm-jp-modernbert checkpoints`: lists the checkpoints of a repository."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console


def checkpoints(
    repository: Annotated[str, typer.Argument(help="ORG/NAME.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """The states of a model in training that its repository has as revisions; each loads as ORG/NAME@REVISION.

    Examples:

    * `llm-jp-modernbert checkpoints ORG/NAME`
    """
    from dataclasses import asdict

    from huggingface_hub import HfApi

    from llm_jp_modernbert.core.hub import checkpoints as find
    from llm_jp_modernbert.core.hub import in_one_line
    from llm_jp_modernbert.publishing.screen import show_checkpoints

    with in_one_line(repository):
        found = find(HfApi(), repository)
    if as_json:
        print(json.dumps([asdict(one) for one in found], ensure_ascii=False, indent=2))
    else:
        show_checkpoints(found, repository, Console())
