"""`llm-jp-modernbert tokenizer`: converts, writes and checks a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.terminal import quiet_libraries


def tokenizer(
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="SentencePiece .model or tokenizer.json of llm-jp-tokenizer v3, a directory with one of them, or a "
            "Hub repository, optionally at a revision (ORG/NAME@REVISION).",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory to write. An older tokenizer in it is replaced.")],
) -> None:
    """Convert an llm-jp tokenizer for masked language models, save it for AutoTokenizer, and check it.

    Examples:

    * `llm-jp-modernbert tokenizer --from llm-jp-tokenizer-100k.ver3.0b1.model --out my-tokenizer`
    """
    from llm_jp_modernbert.tokenization import build_tokenizer, check_tokenizer, write_tokenizer

    quiet_libraries()
    built = build_tokenizer(source)
    written = write_tokenizer(built, out)
    checks = check_tokenizer(built, written)
    table = Table("", "check", "result", box=None)
    for check in checks:
        mark = Text("passed", style="green") if check.passed else Text("FAILED", style="red")
        table.add_row(mark, check.name, Text(check.detail))
    console = Console()
    console.print(f"{len(built):,} tokens, written to {written}", highlight=False)
    console.print(table)
    failed = sum(not check.passed for check in checks)
    if failed:
        raise UsageError(f"{failed} of {len(checks)} checks failed: {source} is not a valid llm-jp tokenizer.")
