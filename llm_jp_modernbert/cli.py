"""The command `llm-jp-modernbert`: one subcommand per job.

torch and transformers are imported when a job runs, so that `--help` is instant.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import typer

from . import __version__
from .commands.adapt import adapt
from .commands.answer import answer
from .commands.average import average
from .commands.checkpoints import checkpoints
from .commands.demo import demo
from .commands.encode import encode
from .commands.evaluate import evaluate
from .commands.fill_mask import fill_mask
from .commands.finetune import finetune
from .commands.index_blocks import index_blocks
from .commands.leaderboard import leaderboard
from .commands.options import fit_help
from .commands.prepare_corpus import prepare_corpus
from .commands.pretrain import pretrain
from .commands.pull import pull
from .commands.quickstart import quickstart
from .commands.release import release
from .commands.release_dataset import release_dataset
from .commands.serve_check import serve_check
from .commands.tokenize_corpus import tokenize_corpus
from .commands.tokenizer import tokenizer
from .commands.train_retrieval import train_embedder, train_late_interaction, train_reranker, train_sparse
from .commands.vocabulary import vocabulary
from .core.errors import describe, is_failed_write
from .core.terminal import printable, show_logs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_WAIT_FOR_RANK_0 = 60.0
_DEBUG_VARIABLE = "LLM_JP_MODERNBERT_DEBUG"

for job in (
    quickstart,
    pretrain,
    finetune,
    train_embedder,
    train_reranker,
    train_sparse,
    train_late_interaction,
    adapt,
    prepare_corpus,
    tokenize_corpus,
    index_blocks,
    average,
    evaluate,
    leaderboard,
    encode,
    fill_mask,
    answer,
    demo,
    tokenizer,
    release_dataset,
    release,
    serve_check,
    pull,
    checkpoints,
):
    app.command(job.__name__.replace("_", "-"))(fit_help(job))
app.add_typer(vocabulary, name="vocabulary")


def _print_version(is_given: bool) -> None:
    if is_given:
        typer.echo(f"llm-jp-modernbert {__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[
        bool, typer.Option("--debug", envvar=_DEBUG_VARIABLE, help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Japanese long-context ModernBERT: train, evaluate, use and publish it.

    Examples:

    * `llm-jp-modernbert quickstart`

    * `llm-jp-modernbert fill-mask llm-jp/llm-jp-modernbert-base "今日のご飯は[MASK]である。"`
    """
    if debug:
        os.environ[_DEBUG_VARIABLE] = "1"
    show_logs()


def main(command: typer.Typer = app) -> None:
    """Run a typer application; a user's mistake prints one line and exits with code 1.

    Args:
        command: the application, by default `llm-jp-modernbert`.
    """
    try:
        command()
    except Exception as error:
        is_expected = isinstance(error, (ValueError, OSError)) or is_failed_write(error)
        if not is_expected or os.environ.get(_DEBUG_VARIABLE, "0") not in ("", "0"):
            raise
        rank = os.environ.get("RANK", "0")
        if rank != "0":
            # Ranks usually fail alike, and the launcher ends this one when rank 0 has printed the error.
            time.sleep(_WAIT_FOR_RANK_0)
        print(f"{'' if rank == '0' else f'[rank {rank}] '}Error: {printable(describe(error))}", file=sys.stderr)
        raise SystemExit(1) from None
