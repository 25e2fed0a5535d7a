"""`python -m benchmarks` for the table, `python -m benchmarks NAME …` for one case in detail."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llm_jp_modernbert.cli import main
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import check_model_directory

from . import plot, readme, results, table
from .cases import (
    encoder,
    encoding,
    fill_mask,
    gpu,
    length_cost,
    loader,
    low_precision,
    packing,
    pseudo_perplexity,
    tokenizing,
    training_step,
)
from .options import Shape, whole_numbers
from .texts import DATA_VARIABLE, find_data

RESULTS = Path(__file__).with_name("results")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for module in (
    encoder,
    training_step,
    length_cost,
    loader,
    packing,
    tokenizing,
    encoding,
    pseudo_perplexity,
    fill_mask,
    low_precision,
    gpu,
):
    app.command(module.__name__.rpartition(".")[2].replace("_", "-"))(module.benchmark)


@app.callback(invoke_without_command=True)
def run_table(
    context: typer.Context,
    quick: Annotated[
        bool, typer.Option("--quick", help="The first seven rows, in three minutes on two cores.")
    ] = False,
    shape: Shape = "base",
    turns: Annotated[int | None, typer.Option(help="Of every case.", min=1)] = None,
    rows: Annotated[str | None, typer.Option(help="Only these rows, parted by commas.")] = None,
    compiled: Annotated[bool | None, typer.Option(help="Whether to time compiled layers as well.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help=f"Folder with tokenizer/*.model and corpus/manuals/; by default ${DATA_VARIABLE}."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A trained model for row 6; by default weights are random.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the JSON and the plot; by default build/benchmarks, or quick in it.", file_okay=False
        ),
    ] = None,
) -> None:
    """Every row of the table, or one case in detail by a command."""
    if context.invoked_subcommand is not None:
        return
    plan = table.QUICK if quick else table.WHOLE
    out = out or Path("build/benchmarks", "quick" if quick else "")
    if turns is not None:
        plan = replace(plan, turns=turns, long_turns=turns)
    if rows is not None:
        plan = replace(plan, numbers=_numbers(rows))
    if compiled is not None:
        plan = replace(plan, compiled=compiled)
    if model is not None:
        check_model_directory(model)
    console = Console()
    # Without the folders, which are a matter of this machine.
    typed = {"--shape": shape if shape != "base" else None, "--turns": turns, "--rows": rows}
    options = [part for name, value in typed.items() if value is not None for part in (name, str(value))]
    options += [] if compiled is None else ["--compiled" if compiled else "--no-compiled"]
    command = shlex.join(["python", "-m", "benchmarks", *(["--quick"] if quick else []), *options])
    content = table.run(plan, shape, find_data(data), model, out, command, console)
    console.print(results.overview(content, results.read(RESULTS) if quick else None))
    drawn = plot.plot(content, out)
    console.print(f"{content['minutes']} minutes; {out / table.FILE}" + (f", {drawn}" if drawn else ""))


@app.command("readme")
def rewrite_readme(
    folder: Annotated[Path, typer.Argument(help="Folder with the JSON.")] = RESULTS,
    file: Annotated[Path, typer.Option(help="The README.")] = readme.README,
) -> None:
    """Write the README's tables, and the plot, from a file of results."""
    content = results.read(folder)
    plot.plot(content, folder)
    readme.rewrite(content, folder, file)


def _numbers(rows: str) -> tuple[int, ...]:
    numbers = whole_numbers("--rows", rows)
    if not set(numbers) <= set(table.TITLES):
        raise UsageError(f"--rows {rows}: the table has rows 1 to {max(table.TITLES)}.")
    return numbers


if __name__ == "__main__":
    main(app)
