"""From text to a trained model."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.terminal import quiet_libraries


class Normalization(str, Enum):
    """Unicode forms of text."""

    none = "none"
    NFC = "NFC"
    NFKC = "NFKC"


def tokenizer(
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="SentencePiece .model or tokenizer.json of llm-jp-tokenizer v3, a directory "
            "that holds one, or a repository (ORG/NAME@REV) such as llm-jp/llm-jp-3-1.8b.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory to write the tokenizer to.")],
) -> None:
    """The llm-jp tokenizer in the form that an encoder needs, saved for plain AutoTokenizer, and checked.

    Examples:

    * `llm-jp-modernbert tokenizer --from llm-jp-tokenizer-100k.ver3.0b1.model --out my-tokenizer`
    """
    from llm_jp_modernbert.tokenization import build_tokenizer, check_tokenizer, write_tokenizer

    quiet_libraries()
    built = build_tokenizer(source)
    written = write_tokenizer(built, out)
    checks = check_tokenizer(built, written)
    from rich.table import Table
    from rich.text import Text

    table = Table("", "check", "found", box=None)
    for check in checks:
        mark = Text("passed", style="green") if check.passed else Text("FAILED", style="red")
        table.add_row(mark, check.name, Text(check.detail))
    console = Console()
    console.print(f"{len(built):,} tokens, written to {written}", highlight=False)
    console.print(table)
    failed = sum(not check.passed for check in checks)
    if failed:
        raise UsageError(f"{failed} of {len(checks)} checks failed: {source} is no sound llm-jp tokenizer.")


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


def pretrain(
    recipe: Annotated[str, typer.Argument(help="A recipe that comes with the package, or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value pairs that change it; values are YAML.", metavar="[KEY=VALUE]…"),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show the resolved recipe, and do no more.")
    ] = False,
) -> None:
    """Pre-trains a model as a recipe says; over several processes with `accelerate launch -m
    llm_jp_modernbert.training.pretrain` in the place of `llm-jp-modernbert pretrain`.

    Recipes: nano and nano-stage2 (two cores, minutes), small and small-stage2 (one GPU, minutes), stage1 and stage2
    (this project's), paper-stage1 and paper-stage2 (the paper's).

    Examples:

    * `llm-jp-modernbert pretrain nano train_data=texts.jsonl.gz tokenizer=my-tokenizer output_dir=runs/nano`

    * `llm-jp-modernbert pretrain nano-stage2 init_from=runs/nano train_data=texts.jsonl.gz output_dir=runs/nano-8k`
    """
    quiet_libraries()
    from llm_jp_modernbert.training.recipe.loading import load_recipe, render

    arguments = load_recipe(recipe, overrides or ())
    if print_config:
        print(render(arguments))
        return
    from llm_jp_modernbert.publishing.release import prepare_checkpoint
    from llm_jp_modernbert.training.pretrain import pretrain as run

    run(arguments, prepare=prepare_checkpoint)


def average(
    checkpoints: Annotated[
        list[str],
        typer.Argument(help="Directories or repositories (ORG/NAME@REV), or one run's directory with --last."),
    ],
    out: Annotated[Path, typer.Option(help="Directory to write the mean to.")],
    last: Annotated[int | None, typer.Option(help="Take the last so many checkpoints of a run.", min=2)] = None,
) -> None:
    """The mean of the weights of several checkpoints, as a checkpoint.

    Examples:

    * `llm-jp-modernbert average runs/stage1 --last 5 --out runs/stage1-mean`
    """
    from llm_jp_modernbert.inference.loading import checkpoint_folder
    from llm_jp_modernbert.training.run.averaging import average_checkpoints, latest_checkpoints

    if last is not None and len(checkpoints) > 1:
        raise UsageError("--last takes one run's directory; without it, name the checkpoints.")
    sources = (
        [checkpoint_folder(name) for name in checkpoints] if last is None else latest_checkpoints(checkpoints[0], last)
    )
    written = average_checkpoints(sources, out)
    print(f"the mean of {len(sources)} checkpoints is in {written}")


def quickstart(
    files: Annotated[
        list[str] | None, typer.Argument(help="More files for --data, so that `--data corpus/*.gz` works.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Your own texts: .jsonl, .txt (documents parted by blank lines), either with .gz, or .parquet; a "
            "folder of them, or a pattern in quotes. By default a small corpus that is part of the package."
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="JSON key or Parquet column that holds the text.")] = "text",
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="SentencePiece .model of llm-jp-tokenizer, directory or repository. By default a small "
            "vocabulary is trained on the texts."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory to write the model to.")] = Path("quickstart-model"),
    force: Annotated[bool, typer.Option("--force", help="Replace a model that quickstart made there.")] = False,
    minutes: Annotated[float, typer.Option(help="How long to train at most.", min=0.01)] = 2.5,
    steps: Annotated[
        int | None,
        typer.Option(help="Train for so many steps however long it takes: the same result anywhere.", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and masks.", min=0)] = 0,
) -> None:
    """From raw Japanese text to a small trained model that plain transformers loads, in minutes.

    Trains a tokenizer, packs the texts, pre-trains at a short context, extends to a long one, measures the masked
    accuracy on held-out text before and after, saves, and fills five masks.

    Examples:

    * `llm-jp-modernbert quickstart`

    * `llm-jp-modernbert quickstart --data texts.jsonl.gz --tokenizer llm-jp-tokenizer-100k.ver3.0b1.model`
    """
    if files and not data:
        raise UsageError(f"{files[0]}: texts of your own are named with --data {' '.join(files)}")
    from llm_jp_modernbert.quickstart.quickstart import QuickstartOptions, run_quickstart

    options = QuickstartOptions(
        data=(*(data or ()), *(files or ())),
        text_column=text_column,
        tokenizer=tokenizer,
        out=out,
        force=force,
        minutes=minutes,
        steps=steps,
        seed=seed,
    )
    run_quickstart(options, Console())
