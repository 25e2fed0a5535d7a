"""`llm-jp-modernbert average`: averages checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_jp_modernbert.core.errors import UsageError


def average(
    checkpoints: Annotated[
        list[str],
        typer.Argument(help="Local paths or repositories (ORG/NAME@REVISION); with --last, one run directory."),
    ],
    out: Annotated[Path, typer.Option(help="Directory to write the average to.")],
    last: Annotated[
        int | None, typer.Option(help="Average the last N checkpoints of a run.", min=2, metavar="N")
    ] = None,
) -> None:
    """Averages the weights of several checkpoints and writes the result as a checkpoint.

    Examples:

    * `llm-jp-modernbert average runs/stage1 --last 5 --out runs/stage1-mean`

    * `llm-jp-modernbert average org/name@stage1-step-900 org/name@stage1-step-1000 --out mean`
    """
    from llm_jp_modernbert.inference.loading import checkpoint_folder
    from llm_jp_modernbert.training.run.averaging import average_checkpoints
    from llm_jp_modernbert.training.run.checkpoints import checkpoints as checkpoints_of

    if last is None:
        sources = [checkpoint_folder(name) for name in checkpoints]
    elif len(checkpoints) == 1:
        sources = checkpoints_of(Path(checkpoints[0]), last)
    else:
        raise UsageError("--last takes one run directory. Name the checkpoints instead, without --last.")
    average_checkpoints(sources, out)
    print(f"The average of {len(sources)} checkpoints was written to {out}.")
