"""Options of `encode`; imports nothing heavy, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

Precision = Literal["float32", "float16", "int8", "binary", "ubinary"]
"""Types of the components of vectors, named as in sentence-transformers."""


@dataclass(frozen=True)
class EncodeOptions:
    """Options of `encode`."""

    model: Annotated[str, typer.Argument(help="Local path, repository, or ORG/NAME@REVISION.")]
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="JSON lines, CSV, TSV, Parquet, or text files with a text per line; a folder of them, a pattern, or "
            "a Hub dataset (ORG/NAME).",
        ),
    ]
    out: Annotated[Path, typer.Option(help="Directory to write. A rerun of the same command continues.")]
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text"
    id_column: Annotated[
        str | None, typer.Option(help="Column of the id.", show_default="name of the file and number of the row")
    ] = None
    split: Annotated[str | None, typer.Option(help="Split of a Hub dataset.", show_default="train")] = None
    config_name: Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")] = None
    scores: Annotated[
        bool, typer.Option("--scores", help="Write a masked language model's score of each text, not vectors.")
    ] = False
    fill_mask: Annotated[
        bool, typer.Option("--fill-mask", help="Write the candidates for the masks of each text, not vectors.")
    ] = False
    classify: Annotated[
        bool, typer.Option("--classify", help="Write the label of each text and its score, not vectors.")
    ] = False
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Name of a prompt of the model, or text put before each text.", show_default="the model's default"
        ),
    ] = None
    pooling: Annotated[
        Literal["mean", "cls"] | None,
        typer.Option(help="How tokens become a vector.", show_default="the embedder's own, else mean"),
    ] = None
    dimensions: Annotated[
        int | None, typer.Option(help="Keep this many first dimensions (Matryoshka).", min=1, show_default="all")
    ] = None
    no_normalize: Annotated[bool, typer.Option("--no-normalize", help="Do not scale vectors to length 1.")] = False
    precision: Annotated[
        Precision,
        typer.Option(help="Type of the vectors' components; int8 is calibrated on the first texts."),
    ] = "float32"
    pair_column: Annotated[str | None, typer.Option(help="Column of the second text of a pair (--classify).")] = None
    top_k: Annotated[int, typer.Option(help="Number of candidates per mask (--fill-mask).", min=1)] = 5
    seed: Annotated[int, typer.Option(help="Seed of the masked positions (--scores).", min=0)] = 0
    backend: Annotated[
        Literal["auto", "torch", "onnx", "openvino"],
        typer.Option(help="Library that computes; auto takes the fastest that is installed."),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Data type of the computation; auto for the checkpoint's."),
    ] = "auto"
    device: Annotated[
        str | None, typer.Option(help="Device such as cpu or cuda:0.", show_default="a GPU if there is one")
    ] = None
    tokens_per_batch: Annotated[int, typer.Option(help="Maximum tokens computed at once.", min=1)] = 8192
    rows_per_shard: Annotated[int, typer.Option(help="Rows of the inputs in each Parquet file.", min=1)] = 10_000
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable row.")] = False
