"""`llm-jp-modernbert leaderboard`: a table of results."""

from __future__ import annotations

import sys

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import write_whole
from llm_jp_modernbert.core.terminal import printable
from llm_jp_modernbert.evaluation.options import LeaderboardOptions

from .options import takes


@takes(LeaderboardOptions)
def leaderboard(options: LeaderboardOptions) -> None:
    """Prints a table of all results: on a terminal a row for each metric, in files a row for each model.

    Examples:

    * `llm-jp-modernbert leaderboard --results results`

    * `llm-jp-modernbert leaderboard --format latex --out leaderboard.tex`

    * `llm-jp-modernbert leaderboard --plots plots`
    """
    from llm_jp_modernbert.core.results import Results
    from llm_jp_modernbert.evaluation.report.leaderboard import leaderboard as build
    from llm_jp_modernbert.evaluation.report.leaderboard import render, show

    results = Results(options.results)
    rows = list(results.rows())
    table = render(build(rows), options.format or "markdown", options.over_seeds)
    if options.out is not None:
        write_whole(options.out, table)
        print(f"written to {options.out}")
    elif options.format is None and sys.stdout.isatty():
        from rich.console import Console

        show(rows, Console(), options.over_seeds)
    else:
        print(printable(table), end="")
    if options.plots is not None:
        from llm_jp_modernbert.evaluation.plots import plot_all

        files = plot_all(results, options.plots)
        if not files:
            raise UsageError(f"{options.results} contains no results that can be plotted.")
        for path in files:
            print(f"written to {path}", file=sys.stderr)
