"""`llm-jp-modernbert average`: averages checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_jp_modernbert.core.errors import UsageError


def average(
    checkpoints: Annotated[
        list[str],
        typer.Argument(help="Directories or repositories (ORG/NAME@REV), or one run's directory with --last."),
    ],
    out: Annotated[Path, typer.Option(help="Directory to write the mean to.")],
    last: Annotated[int | None, typer.Option(help="Take the last so many checkpoints of a run.", min=2)] = None,
) -> None:
    """The mean of the weights of several checkpoints, as a checkpoint.

    Examples:

    * `llm-jp-modernbert average runs/stage1 --last 5 --out runs/stage1-mean`
    """
    from llm_jp_modernbert.inference.loading import checkpoint_folder
    from llm_jp_modernbert.training.run.averaging import average_checkpoints, latest_checkpoints

    if last is not None and len(checkpoints) > 1:
        raise UsageError("--last takes one run's directory; without it, name the checkpoints.")
    sources = (
        [checkpoint_folder(name) for name in checkpoints] if last is None else latest_checkpoints(checkpoints[0], last)
    )
    written = average_checkpoints(sources, out)
    print(f"the mean of {len(sources)} checkpoints is in {written}")
