"""Options of the commands `evaluate` and `leaderboard`; imports nothing heavy, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from llm_jp_modernbert.core.results import current_protocol

from .data.options import Options

DEFAULT_TASKS = "fill-mask, pseudo-perplexity, retrieval, alignment-uniformity, similarity"


def _print_tasks(requested: bool) -> None:
    if requested:
        from .tasks.registry import selectors

        print("\n".join(selectors()))
        raise typer.Exit


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `evaluate`."""

    models: Annotated[
        list[str],
        typer.Argument(
            help="Local directories, or repositories: ORG/NAME or ORG/NAME@REV. NAME=MODEL sets the name in results. "
            "Retrieval also measures bm25."
        ),
    ]
    tasks: Annotated[str, typer.Option(help="Comma-separated task names; see --list-tasks.")] = DEFAULT_TASKS
    list_tasks: Annotated[
        bool, typer.Option("--list-tasks", is_eager=True, callback=_print_tasks, help="Print all task names and exit.")
    ] = False
    protocol: Annotated[
        Literal["default", "paper", "improved"],
        typer.Option(help="Settings of this library, or those of the paper; improved is a former name of default."),
    ] = "default"
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with the datasets in their official layout.", show_default="read from the Hub"),
    ] = None
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results")
    seed: Annotated[
        list[int] | None, typer.Option(help="Random seed. Repeatable: one measurement each.", min=0, show_default="0")
    ] = None
    limit: Annotated[
        int | None, typer.Option(help="Maximum number of examples, for a quick look.", min=1, show_default="all")
    ] = None
    train_file: Annotated[
        list[Path] | None,
        typer.Option(help="File to fine-tune on, in the task's layout. Repeatable.", show_default="the task's own"),
    ] = None
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(help="Learning rate of fine-tuning. Repeatable.", show_default="the protocol's grid"),
    ] = None
    epochs: Annotated[
        list[int] | None,
        typer.Option(help="Number of epochs. Repeatable.", min=1, show_default="the protocol's grid"),
    ] = None
    texts: Annotated[
        list[Path] | None,
        typer.Option(help="JSON-lines file of long texts for pseudo-perplexity. Repeatable."),
    ] = None
    prompts: Annotated[
        Path | None,
        typer.Option(help="Fill-mask prompts: JSON-lines file or ORG/NAME.", show_default="packaged prompts"),
    ] = None
    text: Annotated[
        list[str] | None, typer.Option(help="Only print predictions for the [MASK] of this text. Repeatable.")
    ] = None
    pooling: Annotated[
        str, typer.Option(help="Pooling of embeddings: auto, mean, cls or last-K-layers with a number K.")
    ] = "auto"
    candidates: Annotated[
        str,
        typer.Option(metavar="bm25|MODEL", help="Finds the 50 passages for each question that a reranker orders."),
    ] = "bm25"
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the repository, for a single model.")
    ] = None
    device: Annotated[
        str | None, typer.Option(help="For example cpu or cuda:0.", show_default="a GPU if available")
    ] = None
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Data type; auto is bfloat16 on GPUs that support it, else float32."),
    ] = "auto"
    tokens_per_batch: Annotated[
        int | None,
        typer.Option(help="Maximum tokens of a batch.", min=1, show_default="16,384 on a GPU, 4,096 on a CPU"),
    ] = None

    def for_seed(self, seed: int) -> Options:
        """The options of a measurement with one seed."""
        return Options(
            protocol=current_protocol(self.protocol),
            data_dir=self.data_dir,
            train_files=tuple(self.train_file or ()),
            texts=tuple(self.texts or ()),
            prompts=self.prompts,
            seed=seed,
            limit=self.limit,
            learning_rates=tuple(self.learning_rate or ()),
            epochs=tuple(self.epochs or ()),
            pooling=self.pooling,
            candidates=self.candidates,
        )


@dataclass(frozen=True)
class LeaderboardOptions:
    """Options of `leaderboard`."""

    results: Annotated[Path, typer.Option(help="Folder of the results of `evaluate`.")] = Path("results")
    format: Annotated[
        Literal["markdown", "latex", "csv", "html"] | None,
        typer.Option(help="Format of the table.", show_default="markdown; a plain table on a terminal"),
    ] = None
    over_seeds: Annotated[
        Literal["mean", "best"], typer.Option(help="Show mean ± standard deviation over seeds, or the best seed.")
    ] = "mean"
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="standard output")] = None
    plots: Annotated[Path | None, typer.Option(help="Also draw plots into this folder.")] = None
