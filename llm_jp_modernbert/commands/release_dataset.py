"""`llm-jp-modernbert release-dataset`: publishes a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_jp_modernbert.core.terminal import quiet_libraries


def release_dataset(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder that tokenize-corpus wrote, fill-mask for this package's prompts, or a .jsonl of prompts."
        ),
    ],
    repo: Annotated[str, typer.Option(help="Repository (ORG/NAME); made where it is not there.")],
    revision: Annotated[str, typer.Option(help="Branch; made where it is not there.")] = "main",
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private; else as the account's settings say.")
    ] = False,
    license: Annotated[
        str | None,
        typer.Option(help="Licence of the texts as the Hub writes it, such as cc-by-sa-4.0; by default unknown."),
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="Language of the texts, such as ja, which is the default; repeatable.")
    ] = None,
    dry_run: Annotated[
        Path | None, typer.Option(help="Leave in this folder what would be sent, and send nothing.")
    ] = None,
) -> None:
    """Sends a tokenised corpus or fill-mask prompts to the Hub, with a card, in one commit; checked before.

    Examples:

    * `llm-jp-modernbert release-dataset corpus-tokenized --repo ORG/NAME --license cc-by-sa-4.0 --private`

    * `llm-jp-modernbert release-dataset fill-mask --repo ORG/NAME --dry-run staged`
    """
    quiet_libraries()
    from llm_jp_modernbert.publishing.release_dataset import DatasetOptions
    from llm_jp_modernbert.publishing.release_dataset import release_dataset as run

    made = run(DatasetOptions(source, repo, revision, private, license, tuple(language or ()), dry_run))
    if made is None:
        print(f"checked, and left in {dry_run}; nothing was sent")
    else:
        print(f"{repo}@{revision}: {'' if made.is_new else 'unchanged, '}commit {made.info.oid}")
