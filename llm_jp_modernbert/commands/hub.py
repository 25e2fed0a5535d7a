"""To the Hub and back."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llm_jp_modernbert.core.terminal import quiet_libraries


class ReleaseFormat(str, Enum):
    """Forms of a released model."""

    plain = "plain"
    native = "native"


class Weights(str, Enum):
    """Numbers that weights are saved as."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


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
    quiet_libraries()
    from llm_jp_modernbert.core.hub import Patience
    from llm_jp_modernbert.publishing.release import ReleaseOptions
    from llm_jp_modernbert.publishing.release import release as run

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
    from llm_jp_modernbert.publishing.screen import show_release

    show_release(released, options, console)


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
    from llm_jp_modernbert.core.hub import Patience
    from llm_jp_modernbert.inference.loading import split_revision
    from llm_jp_modernbert.publishing.pull import pull as run
    from llm_jp_modernbert.publishing.screen import show_pulled

    console = Console()
    name, at = split_revision(repository, revision)
    show_pulled(run(name, at, out, Patience(say=lambda line: console.print(line, highlight=False))), console)


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
