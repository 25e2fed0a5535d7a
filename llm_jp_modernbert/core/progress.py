"""The progress bar of all long work."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar(console: Console, *fields: str, transient: bool = False) -> Progress:
    """A rich progress bar: description, bar, percentage, further fields, elapsed and remaining time.

    Args:
        console: where it is shown.
        fields: rich format strings of further columns, such as `{task.fields[rate]}`.
        transient: whether the bar disappears when done; such a bar is not shown in a log file.
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
