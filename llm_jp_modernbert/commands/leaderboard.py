"""`llm-jp-modernbert leaderboard`: a table of results."""

from __future__ import annotations

import sys

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import write_whole
from llm_jp_modernbert.evaluation.options import LeaderboardOptions

from .options import takes


@takes(LeaderboardOptions)
def leaderboard(options: LeaderboardOptions) -> None:
    """Prints a table of all results, with a row for each model and a column for each metric.

    Examples:

    * `llm-jp-modernbert leaderboard --results results`

    * `llm-jp-modernbert leaderboard --format latex --out leaderboard.tex`

    * `llm-jp-modernbert leaderboard --plots plots`
    """
    from llm_jp_modernbert.evaluation.report.leaderboard import leaderboard as build
    from llm_jp_modernbert.evaluation.report.leaderboard import render
    from llm_jp_modernbert.evaluation.report.results import Results

    results = Results(options.results)
    table = render(build(results.rows()), options.format, options.over_seeds)
    if options.out is None:
        print(table, end="")
    else:
        write_whole(options.out, table)
        print(f"written to {options.out}")
    if options.plots is not None:
        from llm_jp_modernbert.evaluation.plots import plot_all

        files = plot_all(results, options.plots)
        if not files:
            raise UsageError(f"{options.results} contains no results that can be plotted.")
        for path in files:
            print(f"written to {path}", file=sys.stderr)
