"""Options of `release` and `release-dataset`, as Python arguments and as command-line options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import typer

from llm_jp_modernbert.core.hub import MAIN

DEFAULT_LICENSE = "apache-2.0"

Repository = Annotated[str, typer.Option("--repo", help="Repository on the Hub (ORG/NAME); created if missing.")]
Revision = Annotated[str, typer.Option(help="Branch of the repository; created if missing.")]
Private = Annotated[
    bool, typer.Option("--private", help="Create a private repository; an existing public one is an error.")
]
DryRun = Annotated[Path | None, typer.Option(help="Write the release to this directory and upload nothing.")]


@dataclass(frozen=True)
class ReleaseOptions:
    """Options of a model release."""

    source: Annotated[
        Path,
        typer.Argument(
            help="Model directory: a training run, a checkpoint, the output of finetune, or a directory that "
            "save_pretrained wrote, also that of sentence-transformers."
        ),
    ]
    repository: Repository
    revision: Revision = MAIN
    private: Private = False
    dry_run: DryRun = None
    format: Annotated[
        Literal["plain", "native"],
        typer.Option(
            help="plain: a ModernBERT checkpoint that transformers loads without this package. native: this package's "
            "model type with its code, loaded with trust_remote_code."
        ),
    ] = "plain"
    results: Annotated[
        Path | None,
        typer.Option(
            help="Results directory of the evaluate command; adds the model's scores and plots. Those of finetune are "
            "always added."
        ),
    ] = None
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(metavar="<type>", help="Data type of the weights: float32, bfloat16, or auto for the source's."),
    ] = "auto"
    max_shard_size: Annotated[str, typer.Option(help="Weights larger than this are split into several files.")] = "5GB"
    license: Annotated[
        str | None,
        typer.Option(
            help="License identifier of the Hub, such as apache-2.0. By default that of the source's or the base "
            "model's card."
        ),
    ] = None
    license_name: Annotated[str | None, typer.Option(help="With --license other: name of the license.")] = None
    languages: Annotated[
        list[str],
        typer.Option(
            "--language",
            help="ISO 639 code of a language of the model. By default those in the cards of the source, of the data "
            "and of the base model. Repeatable.",
        ),
    ] = field(default_factory=list)
    datasets: Annotated[
        list[str],
        typer.Option(
            "--dataset",
            help="Training dataset on the Hub, for the model card. Those in the training log are added. Repeatable.",
        ),
    ] = field(default_factory=list)
    base_model: Annotated[
        str | None,
        typer.Option(
            help="Model on the Hub that training started from, for the model card. By default that in the recipe."
        ),
    ] = None
    sentence_transformers: Annotated[
        bool, typer.Option("--sentence-transformers", help="Add the files that SentenceTransformer loads.")
    ] = False
    pooling: Annotated[
        Literal["mean", "cls"], typer.Option(help="Pooling of token embeddings in SentenceTransformer.")
    ] = "mean"
    onnx: Annotated[bool, typer.Option("--onnx", help="Add an ONNX file; its outputs are compared with torch's.")] = (
        False
    )
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="With --onnx: also add an int8 quantized ONNX file. An error if it changes more than 0.5 % of the "
            "predictions.",
        ),
    ] = False
    packed: Annotated[
        bool, typer.Option("--packed", help="Add graphs without padding, which load_encoder reads without an export.")
    ] = False
    space: Annotated[
        str | None,
        typer.Option(
            help="Space on the Hub (ORG/NAME) that starts the demo with the released model; created if missing. A dry "
            "run writes it to its directory's name followed by -space."
        ),
    ] = None


@dataclass(frozen=True)
class DatasetOptions:
    """Options of a dataset release."""

    source: Annotated[
        str,
        typer.Argument(
            help="Output directory of prepare-corpus or tokenize-corpus, `fill-mask` for the prompts of this "
            "package, or a JSON Lines file of prompts."
        ),
    ]
    repository: Repository
    revision: Revision = MAIN
    private: Private = False
    license: Annotated[
        str | None,
        typer.Option(
            help="License identifier of the Hub, such as cc-by-sa-4.0. By default that of this package's prompts, and "
            "unknown for other data."
        ),
    ] = None
    languages: Annotated[
        list[str],
        typer.Option(
            "--language",
            help="ISO 639 code of a language in the texts. By default ja if the first texts have kana, and ja and "
            "en for this package's prompts. Repeatable.",
        ),
    ] = field(default_factory=list)
    dry_run: DryRun = None
