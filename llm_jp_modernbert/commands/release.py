"""`llm-jp-modernbert release`: publishes a model."""

from __future__ import annotations

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
