"""The tab with the leaderboard and the plots of a results directory."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr

from llm_jp_modernbert.core.results import Results
from llm_jp_modernbert.evaluation.plots import plot_all
from llm_jp_modernbert.evaluation.report.leaderboard import leaderboard, render


def build(results: Path | None, i18n: gr.I18n) -> None:
    """Adds the tab's components.

    Args:
        results: results directory of the evaluate command.

    Raises:
        UsageError: the directory holds no results, or a file is invalid.
    """
    if results is None:
        gr.Markdown(i18n("no_results"))
        return
    measured = Results(results)
    gr.Markdown(render(leaderboard(measured.rows()), "markdown"), elem_classes="leaderboard")
    # Gradio copies the files.
    with TemporaryDirectory() as folder, gr.Row():
        for path in plot_all(measured, Path(folder)):
            gr.Image(
                path,
                label=path.stem,
                show_label=False,
                format="png",
                interactive=False,
                min_width=320,
                buttons=["fullscreen"],
            )
