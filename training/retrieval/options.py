"""Options of `train-embedder` and its siblings; imports nothing heavy, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

Kind = Literal["embedder", "reranker", "sparse", "late-interaction"]
"""Types of model."""

Files = list[str]

QUERY_PROMPT, PASSAGE_PROMPT = "検索クエリ: ", "検索文書: "

_FORMS = "CSV, TSV, JSON lines, Parquet, SQuAD JSON, a folder of them, or a Hub dataset (ORG/NAME). Repeatable."


@dataclass(frozen=True)
class RetrievalOptions:
    """Options that all types of model share."""

    kind: ClassVar[Kind]

    base: Annotated[str, typer.Argument(help="Model to start from: a directory, ORG/NAME or ORG/NAME@REV.")]
    overrides: Annotated[
        list[str],
        typer.Argument(
            metavar="[KEY=VALUE]…", help="Any TrainingArguments, such as learning_rate=3e-5 or num_train_epochs=2."
        ),
    ] = field(default_factory=list)
    train: Annotated[Files, typer.Option(help=f"Training pairs: {_FORMS}")] = field(default_factory=list)
    validation: Annotated[
        Files,
        typer.Option(help="Pairs that select the epoch.", show_default="a tenth of the training pairs"),
    ] = field(default_factory=list)
    test: Annotated[
        Files,
        typer.Option(
            help="Pairs that only the final model is measured on, once. Repeatable: each is a dataset of its own.",
            show_default="none",
        ),
    ] = field(default_factory=list)
    corpus: Annotated[
        Files, typer.Option(help="Further passages, a text column, to search among in validation and test.")
    ] = field(default_factory=list)
    out: Annotated[Path, typer.Option(help="Directory of the model. A rerun of the same command continues.")] = Path(
        "retrieval-model"
    )
    query_column: Annotated[
        str | None,
        typer.Option(help="Column of the query, or of the first text.", show_default="found by its name"),
    ] = None
    passage_column: Annotated[
        str | None,
        typer.Option(help="Column of the relevant passage, or of the second text.", show_default="found by its name"),
    ] = None
    negative_column: Annotated[
        list[str],
        typer.Option(help="Column of a passage that is not relevant. Repeatable.", show_default="found by its name"),
    ] = field(default_factory=list)
    score_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the score of a pair, or of a teacher's scores of all passages.",
            show_default="found by its name",
        ),
    ] = None
    config_name: Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")] = None
    train_split: Annotated[str, typer.Option(help="Split of a Hub dataset for --train.")] = "train"
    validation_split: Annotated[str, typer.Option(help="Split of a Hub dataset for --validation.")] = "validation"
    test_split: Annotated[str, typer.Option(help="Split of a Hub dataset for --test.")] = "test"
    mine_negatives: Annotated[
        int, typer.Option(help="Number of hard negatives to mine for each training pair.", min=0)
    ] = 0
    mine_with: Annotated[
        str | None, typer.Option(help="Embedder that mines the negatives.", show_default="the base")
    ] = None
    teacher: Annotated[
        str | None,
        typer.Option(help="Reranker or embedder whose scores of the training passages the model learns."),
    ] = None
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer, if the base has none.")] = None
    max_length: Annotated[
        int | None,
        typer.Option(help="Maximum tokens of an input; the rest is truncated.", min=8, show_default="the model's"),
    ] = None
    tokens_per_batch: Annotated[
        int | None,
        typer.Option(
            help="Maximum tokens computed at once; does not change the result.",
            min=1,
            show_default="16,384 on a GPU, 4,096 on a CPU",
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="First random seed, also of the held-out pairs.", min=0, max=2**31 - 1)] = (
        42
    )
    seeds: Annotated[int, typer.Option(help="Number of trainings; the best on validation is kept.", min=1)] = 1
    patience: Annotated[
        int, typer.Option(help="Stop after this many epochs without a better validation score; 0 for never.", min=0)
    ] = 2


@dataclass(frozen=True)
class _WithPrompts(RetrievalOptions):
    query_prompt: Annotated[
        str | None,
        typer.Option(
            help="Prefix of queries, stored in the model; none by default for scored pairs and texts alone.",
            show_default=f"'{QUERY_PROMPT}'",
        ),
    ] = None
    passage_prompt: Annotated[
        str | None,
        typer.Option(
            help="Prefix of passages, stored in the model; none by default for scored pairs and texts alone.",
            show_default=f"'{PASSAGE_PROMPT}'",
        ),
    ] = None


@dataclass(frozen=True)
class EmbedderOptions(_WithPrompts):
    """Options of `train-embedder`."""

    kind = "embedder"

    pooling: Annotated[
        Literal["mean", "cls"],
        typer.Option(help="How token vectors become an embedding; a base that is an embedder keeps its own."),
    ] = "mean"
    loss: Annotated[
        Literal["auto", "cached-mnrl", "cosent", "margin-mse", "kl-divergence"],
        typer.Option(help="Loss; auto chooses by the data."),
    ] = "auto"
    matryoshka: Annotated[
        list[int],
        typer.Option(help="Length that embeddings can be truncated to. Repeatable.", min=1, show_default="none"),
    ] = field(default_factory=list)


@dataclass(frozen=True)
class RerankerOptions(RetrievalOptions):
    """Options of `train-reranker`."""

    kind = "reranker"

    candidates: Annotated[
        str,
        typer.Option(
            metavar="bm25|MODEL",
            help="Finds the passages that the reranker orders in validation and test: bm25, or an embedder.",
        ),
    ] = "bm25"
    loss: Annotated[
        Literal["auto", "binary-cross-entropy", "cached-mnrl", "lambda", "margin-mse", "mse"],
        typer.Option(help="Loss; auto chooses by the data."),
    ] = "auto"


@dataclass(frozen=True)
class SparseOptions(_WithPrompts):
    """Options of `train-sparse`."""

    kind = "sparse"

    loss: Annotated[
        Literal["auto", "mnrl", "cosent", "margin-mse", "kl-divergence"],
        typer.Option(help="Loss, in addition to that of sparsity; auto chooses by the data."),
    ] = "auto"
    query_regularizer: Annotated[
        float, typer.Option(help="Weight of the sparsity of queries (FLOPS loss).", min=0.0)
    ] = 5e-5
    passage_regularizer: Annotated[
        float, typer.Option(help="Weight of the sparsity of passages (FLOPS loss).", min=0.0)
    ] = 3e-5


@dataclass(frozen=True)
class LateInteractionOptions(_WithPrompts):
    """Options of `train-late-interaction`."""

    kind = "late-interaction"

    dimensions: Annotated[
        int, typer.Option(help="Length of the vector of a token; a base of this type keeps its own.", min=1)
    ] = 128
    loss: Annotated[
        Literal["auto", "cached-mnrl", "margin-mse", "kl-divergence"],
        typer.Option(help="Loss; auto chooses by the data."),
    ] = "auto"
