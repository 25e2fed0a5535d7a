"""`llm-jp-modernbert vocabulary`: removes tokens from a model's vocabulary, or adds terms of a domain."""

from __future__ import annotations

import typer

from llm_jp_modernbert.adaptation.vocabulary.options import ExtendOptions, TrimOptions
from llm_jp_modernbert.core.terminal import quiet_libraries

from .options import fit_help, takes

vocabulary = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Change a model's vocabulary for a domain, and measure what that costs.",
)


@takes(TrimOptions)
def trim(options: TrimOptions) -> None:
    """Removes the tokens that a domain uses least, with their embeddings.

    Special tokens, bytes and all characters in use stay, so every text can still be encoded.

    Examples:

    * `llm-jp-modernbert vocabulary trim ORG/NAME --texts corpus/ --out smaller --share 0.5`
    """
    from llm_jp_modernbert.adaptation.vocabulary.run import trim as run

    quiet_libraries()
    run(options)


@takes(ExtendOptions)
def extend(options: ExtendOptions) -> None:
    """Adds terms of a domain; their embeddings are the means of those of their parts.

    Train the new tokens afterwards, for example with `adapt`.

    Examples:

    * `llm-jp-modernbert vocabulary extend ORG/NAME --texts corpus/ --out larger --new-tokens 1000`

    * `llm-jp-modernbert vocabulary extend ORG/NAME --texts corpus/ --out larger --terms terms.txt`
    """
    from llm_jp_modernbert.adaptation.vocabulary.run import extend as run

    quiet_libraries()
    run(options)


for command in (trim, extend):
    vocabulary.command(command.__name__)(fit_help(command))
