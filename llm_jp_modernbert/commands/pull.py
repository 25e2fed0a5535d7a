"""`llm-jp-modernbert pull`: downloads and verifies a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def pull(
    repository: Annotated[str, typer.Argument(help="Repository, ORG/NAME or ORG/NAME@REVISION.")],
    out: Annotated[
        Path | None, typer.Option(help="Directory to copy the files to. By default they stay in the Hub cache.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. By default main.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Also download the model's Python files.")
    ] = False,
) -> None:
    """Downloads a model, verifies the checksum of every file, and describes the model.

    The model can then be loaded by its name offline. Files that a model does not need are skipped, such as pickle,
    Python and hidden files, which can run code.

    Examples:

    * `llm-jp-modernbert pull llm-jp/llm-jp-modernbert-base`

    * `llm-jp-modernbert pull ORG/NAME@stage1-step-100000 --out my-model`
    """
    from llm_jp_modernbert.core.references import ModelReference
    from llm_jp_modernbert.core.terminal import printable
    from llm_jp_modernbert.publishing.pull import describe
    from llm_jp_modernbert.publishing.pull import pull as run

    reference = ModelReference.parse(repository, revision)
    pulled = run(reference.name, reference.revision, out, trust_remote_code=trust_remote_code)
    console = Console()
    table = Table(box=None, show_header=False)
    for label, value in {"commit": pulled.commit, **describe(pulled.folder)}.items():
        table.add_row(label, Text(printable(value)))
    console.print(Text(printable(pulled.name), style="bold"), table)
    listed = "" if pulled.listed is None else f", {pulled.listed:,} files match the release's manifest"
    console.print(f"{pulled.checked:,} files match the Hub's checksums{listed}.", highlight=False)
    if pulled.skipped:
        skipped = " ".join(printable(", ".join(pulled.skipped)).split())
        message = f"Skipped files that a model does not need or that can run code: {skipped}."
        hint = " --trust-remote-code downloads Python files." if ".py" in skipped else ""
        console.print(Text(message + hint), soft_wrap=True)
    console.print(Text(printable(f"The model is in {pulled.folder}")), soft_wrap=True)
