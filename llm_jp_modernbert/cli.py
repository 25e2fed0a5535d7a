"""The command `llm-jp-modernbert`: a sub-command per job.

Nothing here imports torch or transformers before a job runs, so that `--help` is there at once.
"""

from __future__ import annotations

import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from .errors import UsageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEFAULT_TASKS = "fill-mask,pseudo-perplexity,retrieval,alignment-uniformity,similarity"

_DEBUG_VARIABLE = "LLM_JP_MODERNBERT_DEBUG"


class DType(str, Enum):
    """Numbers that a model computes with."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Protocol(str, Enum):
    """How an evaluation is done."""

    improved = "improved"
    paper = "paper"


class TableFormat(str, Enum):
    """Forms of the leaderboard."""

    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    html = "html"


class OverSeeds(str, Enum):
    """What stands for several seeds."""

    mean = "mean"
    best = "best"


class Normalization(str, Enum):
    """Unicode forms of text."""

    none = "none"
    NFC = "NFC"
    NFKC = "NFKC"


@app.callback()
def common(
    debug: Annotated[
        bool, typer.Option("--debug", envvar=_DEBUG_VARIABLE, help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Japanese long-context ModernBERT: use it, and train a small one to see how it works.

    Examples:

    * `llm-jp-modernbert quickstart`

    * `llm-jp-modernbert fill-mask llm-jp/llm-jp-modernbert-base "今日のご飯は[MASK]である。"`
    """
    if debug:
        os.environ[_DEBUG_VARIABLE] = "1"


@app.command()
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
    from .quickstart import QuickstartOptions, run_quickstart

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


@app.command()
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
    _quiet()
    from .training.recipe import load_recipe, render

    arguments = load_recipe(recipe, overrides or ())
    if print_config:
        print(render(arguments))
        return
    from .release import prepare_checkpoint
    from .training.pretrain import pretrain as run

    run(arguments, prepare=prepare_checkpoint)


@app.command("tokenize-corpus")
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
    _quiet()
    from .training.tokenize_corpus import TokenizeOptions
    from .training.tokenize_corpus import tokenize_corpus as run

    options = TokenizeOptions(
        tuple(files), tokenizer, out, text_column, workers, shard_tokens, normalization.value, strict
    )
    totals = run(options, Console())["totals"]
    left_out = f"; left out: {totals['broken_rows']:,} broken and {totals['blank_rows']:,} blank rows"
    print(
        f"{totals['documents']:,} documents, {totals['characters']:,} characters, {totals['tokens']:,} tokens in {out}"
        + (left_out if totals["broken_rows"] or totals["blank_rows"] else "")
    )


@app.command()
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
    from .loading import checkpoint_folder
    from .modeling.averaging import average_checkpoints, latest_checkpoints

    if last is not None and len(checkpoints) > 1:
        raise UsageError("--last takes one run's directory; without it, name the checkpoints.")
    sources = (
        [checkpoint_folder(name) for name in checkpoints] if last is None else latest_checkpoints(checkpoints[0], last)
    )
    written = average_checkpoints(sources, out)
    print(f"the mean of {len(sources)} checkpoints is in {written}")


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(help="Directories, repositories, or repositories at ORG/NAME@REV.")],
    tasks: Annotated[str, typer.Option(help="Tasks, parted by commas.")] = DEFAULT_TASKS,
    protocol: Annotated[Protocol, typer.Option(help="The paper's, or what is held to be better.")] = Protocol.improved,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of data in their official layout; by default they are from the Hub.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    seed: Annotated[list[int] | None, typer.Option(help="Seed; repeat it for several runs.", min=0)] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many examples, for a quick look.", min=1)] = None,
    train_file: Annotated[
        list[Path] | None, typer.Option(help="Fine-tune on these files in the place of the task's own; repeatable.")
    ] = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="Of fine-tuning, in the place of the protocol's grid; repeatable.")
    ] = None,
    epochs: Annotated[
        list[int] | None, typer.Option(help="Of fine-tuning, in the place of the grid's; repeatable.", min=1)
    ] = None,
    texts: Annotated[
        list[Path] | None, typer.Option(help="JSON lines of long texts for pseudo-perplexity; repeatable.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines of prompts for fill-mask, or ORG/NAME.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Only show what the models put into this text's [MASK]; repeatable.")
    ] = None,
    pooling: Annotated[str, typer.Option(help="auto, mean, cls, or last-K-layers.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a single model's repository.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu or cuda:0; by default a GPU if there is one.")
    ] = None,
    dtype: Annotated[DType, typer.Option(help="auto is bfloat16 on a GPU that has it, else float32.")] = DType.auto,
    tokens_per_batch: Annotated[
        int | None, typer.Option(help="Tokens that are read at once; by default 16,384 on a GPU, else 4,096.", min=1)
    ] = None,
) -> None:
    """Measures encoders, whoever made them, and keeps every figure with what it depends on.

    Tasks: fill-mask (fill-mask-published-tokenizer: the same with the `▁` that llm-jp's published tokenizer puts after
    a mask), pseudo-perplexity, retrieval (retrieval:miracl, :jsquad, :jaquad, :beir), alignment-uniformity,
    similarity, jmteb (jmteb:TASK, jmteb-lite); and by fine-tuning jsts, jnli, jcola, jsquad, jcommonsenseqa, marc-ja,
    ner, whose grid several GPUs share under `accelerate launch -m llm_jp_modernbert.evaluation.evaluate`. What is
    measured already is not measured again.

    Examples:

    * `llm-jp-modernbert evaluate my-model llm-jp/llm-jp-modernbert-base --tasks fill-mask,pseudo-perplexity`

    * `llm-jp-modernbert evaluate my-model --tasks retrieval,similarity --data-dir data --protocol paper`

    * `llm-jp-modernbert evaluate my-model --tasks jsts,jnli,jcola --data-dir data --seed 0 --seed 1`

    * `llm-jp-modernbert evaluate my-model --text "朝ごはんを[MASK]ました。"`
    """
    if revision is not None and len(models) > 1:
        raise UsageError("--revision is for a single model; write ORG/NAME@REVISION for several.")
    _quiet()
    from .evaluation.evaluate import Plan
    from .evaluation.evaluate import evaluate as run
    from .evaluation.loading import EvaluatedModel, ModelName
    from .evaluation.side_by_side import show_texts
    from .evaluation.task import Options

    named = [ModelName(model, revision, device, dtype.value, tokens_per_batch) for model in models]
    if text:
        show_texts([EvaluatedModel(which) for which in named], text, Console())
        return
    options = Options(
        protocol=protocol.value,
        data_dir=data_dir,
        train_files=tuple(train_file or ()),
        texts=tuple(texts or ()),
        prompts=prompts,
        limit=limit,
        learning_rates=tuple(learning_rate or ()),
        epochs=tuple(epochs or ()),
        pooling=pooling,
    )
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    run(Plan(named, names, options, tuple(seed or (0,)), out), Console())


@app.command()
def leaderboard(
    results: Annotated[Path, typer.Option(help="Folder that `evaluate` wrote.")] = Path("results"),
    form: Annotated[TableFormat, typer.Option("--format", help="Form of the table.")] = TableFormat.markdown,
    over_seeds: Annotated[OverSeeds, typer.Option(help="Mean ± standard deviation, or the best.")] = OverSeeds.mean,
    out: Annotated[Path | None, typer.Option(help="File to write; by default the screen.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder to draw plots into, beside the table.")] = None,
) -> None:
    """A table of all results: a row for each model, a column for each figure; on request plots as well.

    Examples:

    * `llm-jp-modernbert leaderboard --results results`

    * `llm-jp-modernbert leaderboard --format latex --out leaderboard.tex`

    * `llm-jp-modernbert leaderboard --plots plots`
    """
    from .evaluation.leaderboard import leaderboard as build
    from .evaluation.leaderboard import render
    from .evaluation.results import Results
    from .files import write_whole

    table = render(build(Results(results).rows()), form.value, over_seeds.value)
    if out is None:
        print(table, end="")
    else:
        write_whole(out, table)
        print(f"written to {out}")
    if plots is not None:
        from .evaluation.plots import plot_all

        for path in plot_all(Results(results), plots):
            print(f"written to {path}", file=sys.stderr)


@app.command("fill-mask")
def fill_mask(
    model: Annotated[str, typer.Argument(help="Directory, repository, or repository at a revision (ORG/NAME@REV).")],
    texts: Annotated[
        list[str],
        typer.Argument(
            help="Texts with [MASK], <mask>, {mask} or the tokenizer's own mask; `-` reads lines of input."
        ),
    ],
    top_k: Annotated[int, typer.Option(help="Candidates per mask.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    tokenizer: Annotated[
        str | None, typer.Option(help="Another tokenizer than the model's own: directory, repository or .model file.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model's repository.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu or cuda:0; by default a GPU if there is one.")
    ] = None,
    dtype: Annotated[DType, typer.Option(help="Numbers to compute with; auto is as saved.")] = DType.auto,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="On a CPU, in float32 with weights packed as float16: the same, in less time."),
    ] = False,
) -> None:
    """Candidates for the masked tokens of texts.

    Examples:

    * `llm-jp-modernbert fill-mask llm-jp/llm-jp-modernbert-base "今日のご飯は[MASK]である。" --top-k 10`

    * `llm-jp-modernbert fill-mask quickstart-model - --json --fast < texts.txt`
    """
    if fast and (dtype is not DType.auto or device not in (None, "cpu")):
        raise UsageError("--fast chooses device and numbers itself. Leave out --device and --dtype, or --fast.")
    texts = _with_input(texts)
    from .fill_mask import fill_masks, render
    from .loading import load_masked_lm, load_tokenizer

    _quiet()
    if fast:
        from .fast import load_fast_masked_lm

        loaded = load_fast_masked_lm(model, revision)
    else:
        loaded = load_masked_lm(model, revision, dtype.value, device)
    its_tokenizer = load_tokenizer(tokenizer) if tokenizer else load_tokenizer(model, revision)
    results = fill_masks(loaded, its_tokenizer, texts, top_k)
    if as_json:
        print(json.dumps([result.as_dict() for result in results], ensure_ascii=False, indent=2))
        return
    console = Console()
    for number, result in enumerate(results):
        if number:
            console.print()
        console.print(render(result, str(its_tokenizer.mask_token)))


@app.command()
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
    from .tokenization import build_tokenizer, check_tokenizer, write_tokenizer

    _quiet()
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


@app.command("release-dataset")
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
    _quiet()
    from .release_dataset import DatasetOptions
    from .release_dataset import release_dataset as run

    made = run(DatasetOptions(source, repo, revision, private, license, tuple(language or ()), dry_run))
    if made is None:
        print(f"checked, and left in {dry_run}; nothing was sent")
    else:
        print(f"{repo}@{revision}: {'' if made.is_new else 'unchanged, '}commit {made.info.oid}")


class ReleaseFormat(str, Enum):
    """Forms of a released model."""

    plain = "plain"
    native = "native"


class Weights(str, Enum):
    """Numbers that weights are saved as."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@app.command()
def release(
    source: Annotated[Path, typer.Argument(help="A model's directory: a run, a checkpoint, or a saved model.")],
    repo: Annotated[str, typer.Option(help="Repository to release to, ORG/NAME.")],
    revision: Annotated[str, typer.Option(help="Branch of it; made if it is not there.")] = "main",
    private: Annotated[bool, typer.Option("--private", help="Make the repository private from the first.")] = False,
    dry_run: Annotated[Path | None, typer.Option(help="Write the release to this folder, and send nothing.")] = None,
    form: Annotated[
        ReleaseFormat,
        typer.Option("--format", help="plain loads anywhere; native is this package's model type, with its code."),
    ] = ReleaseFormat.plain,
    results: Annotated[Path | None, typer.Option(help="Folder that `evaluate` wrote: its figures and plots.")] = None,
    dtype: Annotated[Weights, typer.Option(help="Numbers of the weights; auto is as they are.")] = Weights.auto,
    max_shard_size: Annotated[str, typer.Option(help="Larger weights go into several files.")] = "5GB",
    license_id: Annotated[str, typer.Option("--license", help="As the Hub names it.")] = "apache-2.0",
    dataset: Annotated[
        list[str] | None, typer.Option(help="Hub dataset that it was trained on, for the card; repeatable.")
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="Hub model that it was made from, for the card.")] = None,
    sentence_transformers: Annotated[
        bool, typer.Option("--sentence-transformers", help="Loads with plain SentenceTransformer, too.")
    ] = False,
    pooling: Annotated[str, typer.Option(help="Of --sentence-transformers: mean or cls.")] = "mean",
    onnx: Annotated[bool, typer.Option("--onnx", help="An ONNX file, checked in onnxruntime.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="With --onnx: a quantised one as well.")] = False,
) -> None:
    """Puts a model on the Hub: complete, checked before it leaves, with its card, in one commit.

    Before anything is sent, transformers alone loads what is staged, its logits are compared with the source's, and
    the card's metadata is validated. Run again after a broken connection, it goes on; unchanged, it commits nothing.

    Examples:

    * `llm-jp-modernbert release runs/stage2 --repo ORG/NAME --results results --private`

    * `llm-jp-modernbert release runs/stage2 --repo ORG/NAME --dry-run staged --onnx --sentence-transformers`
    """
    _quiet()
    from .hub import Patience
    from .release import ReleaseOptions
    from .release import release as run

    options = ReleaseOptions(
        source=source,
        repository=repo,
        revision=revision,
        private=private,
        dry_run=dry_run,
        format=form.value,
        dtype=dtype.value,
        max_shard_size=max_shard_size,
        results=results,
        license=license_id,
        datasets=tuple(dataset or ()),
        base_model=base_model,
        pooling=pooling if sentence_transformers else None,
        onnx=onnx,
        int8=int8,
    )
    console = Console()
    released = run(options, Patience(say=lambda line: console.print(line, highlight=False, markup=False)))
    from .hub_screen import show_release

    show_release(released, options, console)


@app.command()
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
    from .hub import Patience
    from .hub_screen import show_pulled
    from .loading import split_revision
    from .pull import pull as run

    console = Console()
    name, at = split_revision(repository, revision)
    show_pulled(run(name, at, out, Patience(say=lambda line: console.print(line, highlight=False))), console)


@app.command()
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

    from .hub import checkpoints as find
    from .hub import in_one_line
    from .hub_screen import show_checkpoints

    with in_one_line(repository):
        found = find(HfApi(), repository)
    if as_json:
        print(json.dumps([asdict(one) for one in found], ensure_ascii=False, indent=2))
    else:
        show_checkpoints(found, repository, Console())


def _quiet() -> None:
    """The screen is the job's: transformers' bars and notes on loading are not what was asked for."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def run_job(name: str) -> None:
    """Runs one job by its module, as `python -m` and `accelerate launch -m` do."""
    sys.argv[1:1] = [name]
    main()


def main() -> None:
    """Runs the command; a user's mistake is one line and a non-zero exit code."""
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get(_DEBUG_VARIABLE, "0") not in ("", "0"):
            raise
        _fail(error)


def _fail(error: ValueError | OSError) -> NoReturn:
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename:
        message = f"{error.filename}: {error.strerror}"
    rank = os.environ.get("RANK", "0")
    # Of several processes each tells its own, since it may be the only one that has failed.
    print(f"{'' if rank == '0' else f'[rank {rank}] '}Error: {message}", file=sys.stderr)
    raise SystemExit(1)


def _with_input(texts: list[str]) -> list[str]:
    """The texts, with the lines of standard input in the place of `-`."""
    found: list[str] = []
    for text in texts:
        if text == "-":
            found += [line for line in (raw.rstrip("\r\n") for raw in sys.stdin) if line.strip()]
        else:
            found.append(text)
    if not found:
        raise UsageError("standard input holds no text. Give one text a line.")
    return found
