"""`python -m benchmarks` measures the table, `python -m benchmarks NAME` one case in detail."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from llm_jp_modernbert.cli import main
from llm_jp_modernbert.commands.options import fit_help
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.references import ModelReference

from . import cost_report, report, roofline, table
from .cases import (
    corpora,
    encoder,
    encoding,
    fill_mask,
    finetuning,
    gpu,
    retrieval,
    runtimes,
    step_cost,
    tokenizing,
    training_step,
)
from .measure import Case, environment, measure, show, write_json
from .models import Shape, find_data, whole_numbers
from .speedrun import speedrun

RESULTS = Path(__file__).with_name("results")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def _case_command(cases: Callable[..., Iterable[Case]]) -> Callable[..., None]:
    """Make a command from a function that yields cases: its options, `--repeats` and `--out`."""

    def command(
        repeats: Annotated[int, typer.Option(help="Timed turns.", min=1)] = 5,
        out: Annotated[Path | None, typer.Option(help="JSON file to write.", dir_okay=False)] = None,
        **options: Any,
    ) -> None:
        content: dict[str, Any] = {**environment(), "cases": []}
        console = Console()
        console.print(f"{content['machine']['name']}, {content['machine']['threads']} threads; {repeats} turns")
        for case in cases(**options):
            measurement = measure(case, repeats)
            show(measurement, console)
            ratios = {name: measurement.ratio(name) for name in measurement.rates}
            content["cases"].append({**asdict(measurement), "ratios": ratios})
            if out is not None:
                write_json(out, content)

    *shared, _ = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [*inspect.signature(cases, eval_str=True).parameters.values(), *shared]
    command.__doc__ = cases.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


for module in (encoder, encoding, training_step, finetuning, retrieval, tokenizing, fill_mask, runtimes):
    app.command(module.__name__.rpartition(".")[2].replace("_", "-"))(fit_help(_case_command(module.cases)))


app.command("step-cost")(fit_help(step_cost.step_cost))
app.command("corpora")(fit_help(corpora.corpora))
app.command("gpu")(fit_help(gpu.gpu))
app.command("roofline")(fit_help(roofline.roofline))


@app.callback(invoke_without_command=True)
def measure_table(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Rows 1 to 7, in two to three minutes on two cores.")] = False,
    shape: Shape = "base",
    turns: Annotated[int | None, typer.Option(help="Timed turns of every case.", min=1)] = None,
    rows: Annotated[str | None, typer.Option(help="Comma-separated row numbers; by default all.")] = None,
    compiled: Annotated[bool | None, typer.Option(help="Also measure compiled layers.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with tokenizer/*.model and corpus/manuals/."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Trained model for row 6; by default random weights.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the JSON file and the plot; by default build/benchmarks, with --quick its folder quick.",
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Measure this library against transformers: every row of the table, or one case in detail.

    Rows 5 to 7 need real texts, from `--data` or the environment variable `LLM_JP_MODERNBERT_TEST_DATA`.

    Examples:

    * `python -m benchmarks --quick`

    * `python -m benchmarks --rows 4,5 --out benchmarks/results`

    * `python -m benchmarks encoder --lengths 2048 --dtype float32`
    """
    if context.invoked_subcommand is not None:
        return
    plan = table.QUICK if quick else table.WHOLE
    out = out or Path("build/benchmarks", "quick" if quick else "")
    if turns is not None:
        plan = replace(plan, turns=turns, long_turns=turns)
    if rows is not None:
        numbers = whole_numbers("--rows", rows)
        if not set(numbers) <= set(table.ROWS):
            raise UsageError(f"--rows {rows}: the table has rows 1 to {max(table.ROWS)}.")
        plan = replace(plan, numbers=numbers)
    if compiled is not None:
        plan = replace(plan, compiled=compiled)
    if model is not None:
        ModelReference.parse(model).check_model()
    console = Console()
    # The stored command omits local folders.
    given = {"--shape": shape if shape != "base" else None, "--turns": turns, "--rows": rows}
    options = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    options += [] if compiled is None else ["--compiled" if compiled else "--no-compiled"]
    command = shlex.join(["python", "-m", "benchmarks", *(["--quick"] if quick else []), *options])
    content = table.run(plan, shape, find_data(data), model, out, command, console)
    console.print(report.overview(content, report.read(RESULTS) if quick else None))
    image = report.plot(content, out)
    console.print(f"{content['minutes']} minutes; {out / table.FILE}" + (f", {image}" if image else ""))


app.command("speedrun")(fit_help(speedrun))


@app.command("readme")
def write_readme(
    folder: Annotated[Path, typer.Argument(help="Folder with the JSON files.")] = RESULTS,
    file: Annotated[Path, typer.Option(help="README to update.")] = report.README,
) -> None:
    """Write the plot and the README's tables from the files of results."""
    content = report.read(folder)
    report.plot(content, folder)
    report.rewrite(content, folder, file)
    costs = folder / roofline.COSTS.name
    if costs.is_dir():
        report.write_part(cost_report.counted_part(costs), cost_report.BEGIN, cost_report.END, file)


if __name__ == "__main__":
    main(app)
