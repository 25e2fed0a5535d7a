"""The command: one sub-command a job. Only the job that runs imports what it needs, so `--help` is instant."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

DEBUG_VARIABLE = "LLM_JP_MODERNBERT_DEBUG"


class _Jobs(TyperGroup):
    """Tells a user's mistake in one line; the traceback is for those who ask for it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Jobs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=f"""Japanese long-context ModernBERT: use it, train it, measure it.

    \b
    Examples:
      llm-jp-modernbert quickstart
      llm-jp-modernbert fill-mask llm-jp/llm-jp-modernbert-base "今日の[MASK]は晴れです。"
      llm-jp-modernbert tokenizer --from llm-jp-tokenizer-100k.ver3.0b1.model --out my-tokenizer

    Set {DEBUG_VARIABLE}=1 to see the traceback of an error.
    """,
)


@app.command("quickstart")
def quickstart(
    data: Annotated[
        list[str] | None,
        typer.Option(help="Your own .jsonl, .txt or .parquet (also .gz), folder or pattern; may be repeated."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="A llm-jp-tokenizer: .model file, directory or repository. Default: a small one."),
    ] = None,
    out: Annotated[Path, typer.Option(help="New directory for the model.")] = Path("quickstart-model"),
    text_column: Annotated[str, typer.Option(help="The JSON key or Parquet column that holds the text.")] = "text",
    minutes: Annotated[float, typer.Option(help="The most time that training may take.")] = 2.5,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps, if fewer are wanted than fit the time.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and masks.")] = 0,
) -> None:
    """From raw Japanese text to a small trained model that plain transformers loads.

    Makes or adapts a tokenizer, trains a small model at a short context, extends it to a long one, shows its masked
    accuracy on held-out text beside the unigram baseline, saves it, and lets plain transformers fill five masks.

    \b
    Examples:
      llm-jp-modernbert quickstart
      llm-jp-modernbert quickstart --data my-texts.jsonl.gz --out my-model
      llm-jp-modernbert quickstart --data "texts/*.parquet" --text-column body --tokenizer llm-jp/llm-jp-3-1.8b
    """
    from .quickstart import run_quickstart

    run_quickstart(data or [], tokenizer, out, text_column, minutes, steps, seed)


@app.command("fill-mask")
def fill_mask(
    model: Annotated[str, typer.Argument(help="A directory, ORG/NAME, or ORG/NAME@REVISION.")],
    texts: Annotated[
        list[str], typer.Argument(help="Texts with [MASK], <mask> or {mask}; - reads lines of the input.")
    ],
    top_k: Annotated[int, typer.Option(help="Candidates per mask.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines in place of tables.")] = False,
    tokenizer: Annotated[str | None, typer.Option(help="Another tokenizer than the model's.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a repository.")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda. Default: a GPU where there is one.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """The likeliest tokens for each mask of a text.

    \b
    Examples:
      llm-jp-modernbert fill-mask llm-jp/llm-jp-modernbert-base "今日の[MASK]は晴れです。"
      llm-jp-modernbert fill-mask my-model "[MASK]の首都は[MASK]である。" --top-k 10 --json
      cat texts.txt | llm-jp-modernbert fill-mask my-model -
    """
    import json

    from .errors import UsageError
    from .fill_mask import fill_masks, render
    from .loading import load_masked_lm, load_tokenizer, split_revision

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise UsageError(f"--dtype {dtype}: it must be auto, float32, bfloat16 or float16.")
    if texts == ["-"]:
        texts = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        raise UsageError("no text on the input. Write a line with [MASK] for each text.")
    _quiet()
    name, revision = split_revision(model, revision)
    # The tokenizer comes first: it is small, and a text without a mask is noticed before a large model is loaded.
    tokens = load_tokenizer(tokenizer) if tokenizer else load_tokenizer(name, revision)
    masked_lm = load_masked_lm(name, revision, dtype, device)
    results = fill_masks(masked_lm, tokens, texts, top_k)
    if as_json:
        for result in results:
            typer.echo(json.dumps(result.as_dict(), ensure_ascii=False))
        return
    from rich.console import Console

    console = Console()
    for result in results:
        console.print(render(result, str(tokens.mask_token)))


@app.command("tokenizer")
def tokenizer(
    source: Annotated[str, typer.Option("--from", help="A .model file, a directory, or a repository of llm-jp's.")],
    out: Annotated[Path, typer.Option(help="Directory for the tokenizer; an older tokenizer there is replaced.")],
) -> None:
    """Make the encoder tokenizer from what llm-jp publishes, and check it.

    \b
    Examples:
      llm-jp-modernbert tokenizer --from llm-jp-tokenizer-100k.ver3.0b1.model --out my-tokenizer
      llm-jp-modernbert tokenizer --from llm-jp/llm-jp-3-1.8b --out my-tokenizer
    """
    from rich.console import Console
    from rich.table import Table

    from .tokenization import build_tokenizer, check_tokenizer, write_tokenizer

    _quiet()
    built = build_tokenizer(source)
    directory = write_tokenizer(built, out)
    checks = check_tokenizer(built, directory)
    table = Table("", "check", "found", box=None)
    for check in checks:
        table.add_row("[green]✓[/]" if check.passed else "[red]✗[/]", check.name, check.detail)
    console = Console()
    console.print(table)
    failed = sum(not check.passed for check in checks)
    if failed:
        raise ValueError(f"{failed} of {len(checks)} checks failed; {directory} should not be used.")
    console.print(
        f"{len(built):,} tokens, written to [bold]{out}[/]. Use: AutoTokenizer.from_pretrained({str(out)!r})"
    )


def _quiet() -> None:
    """Leave the screen to the job: transformers' bars and notes on loading are not its result."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="llm-jp-modernbert")
