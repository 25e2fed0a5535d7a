"""Options of `serve-check`, as Python arguments and as command-line options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from .runtimes import RUNTIMES


@dataclass(frozen=True)
class ServeCheckOptions:
    """Options of a check of a model in the runtimes of servers."""

    folder: Annotated[
        Path, typer.Argument(help="Directory of a release (`release --dry-run`) or of any saved ModernBERT model.")
    ]
    pythons: Annotated[
        list[Path],
        typer.Option(
            "--python",
            help="Interpreter of another environment, whose runtimes are checked too. It needs numpy, not this "
            "package. Repeatable.",
        ),
    ] = field(default_factory=list)
    runtimes: Annotated[
        list[str],
        typer.Option(
            "--runtime",
            help="Check this runtime only; by default all of them. Repeatable. "
            f"Names: {'; '.join(runtime.name for runtime in RUNTIMES)}.",
        ),
    ] = field(default_factory=list)
    timeout: Annotated[float, typer.Option(help="Seconds after which a runtime has failed.", min=1)] = 900.0
