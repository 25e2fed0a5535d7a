"""The one look that long work has on the screen."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar(console: Console, *fields: str, transient: bool = False) -> Progress:
    """A rich progress bar: description, bar, percentage, the given fields, time passed and time left.

    Args:
        console: where it is shown.
        fields: further columns.
        transient: whether it goes away when it is done; where nothing can go away, as in a log, it does not appear.
    """
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        *(TextColumn(field) for field in fields),
        TimeElapsedColumn(),
        TextColumn("·"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=transient,
        disable=transient and not console.is_terminal,
    )
