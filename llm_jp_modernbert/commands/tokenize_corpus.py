"""`llm-jp-modernbert tokenize-corpus`: tokenizes a corpus ahead of time."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llm_jp_modernbert.core.terminal import quiet_libraries


class Normalization(str, Enum):
    """Unicode forms of text."""

    none = "none"
    NFC = "NFC"
    NFKC = "NFKC"


def tokenize_corpus(
    files: Annotated[list[str], typer.Argument(help="Files, folders and patterns in quotes, as for train_data.")],
    tokenizer: Annotated[str, typer.Option(help="Directory, repository or SentencePiece .model file.")],
    out: Annotated[Path, typer.Option(help="Directory to write, which pretrain then takes as train_data.")],
    text_column: Annotated[str, typer.Option(help="JSON key or column that holds the text.")] = "text",
    workers: Annotated[int, typer.Option(help="Processes; each takes a file at a time.", min=1)] = 1,
    shard_tokens: Annotated[int, typer.Option(help="Tokens of a shard, about.", min=1)] = 50_000_000,
    normalization: Annotated[Normalization, typer.Option(help="Unicode form to bring texts to.")] = Normalization.none,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a row that is no document.")] = False,
) -> None:
    """Tokenises a corpus ahead of time, into Arrow files; run again, it goes on where it was stopped.

    Examples:

    * `llm-jp-modernbert tokenize-corpus "corpus/*.jsonl.gz" --tokenizer my-tokenizer --out corpus-tokenized`
    """
    quiet_libraries()
    from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions
    from llm_jp_modernbert.training.data.tokenize_corpus import tokenize_corpus as run

    options = TokenizeOptions(
        tuple(files), tokenizer, out, text_column, workers, shard_tokens, normalization.value, strict
    )
    totals = run(options, Console())["totals"]
    left_out = f"; left out: {totals['broken_rows']:,} broken and {totals['blank_rows']:,} blank rows"
    print(
        f"{totals['documents']:,} documents, {totals['characters']:,} characters, {totals['tokens']:,} tokens in {out}"
        + (left_out if totals["broken_rows"] or totals["blank_rows"] else "")
    )
