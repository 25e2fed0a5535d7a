"""`llm-jp-modernbert leaderboard`: a table of results."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


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
    from llm_jp_modernbert.core.files import write_whole
    from llm_jp_modernbert.evaluation.report.leaderboard import leaderboard as build
    from llm_jp_modernbert.evaluation.report.leaderboard import render
    from llm_jp_modernbert.evaluation.report.results import Results

    table = render(build(Results(results).rows()), form.value, over_seeds.value)
    if out is None:
        print(table, end="")
    else:
        write_whole(out, table)
        print(f"written to {out}")
    if plots is not None:
        from llm_jp_modernbert.evaluation.report.plots import plot_all

        for path in plot_all(Results(results), plots):
            print(f"written to {path}", file=sys.stderr)
