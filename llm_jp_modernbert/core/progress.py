"""The progress bar of all long work."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

_NARROW = 100


class _TimeColumn(ProgressColumn):
    """The remaining time; the elapsed time of a finished task."""

    def render(self, task: Task) -> Text:
        seconds = task.elapsed if task.finished else task.time_remaining
        time = "-:--:--" if seconds is None else str(timedelta(seconds=int(seconds)))
        return Text(time if task.finished else f"{time} left")


class _FieldColumn(TextColumn):
    """Text that is truncated if the line is too long; other columns keep their width."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


def progress_bar(console: Console, *fields: str, transient: bool = False) -> Progress:
    """A rich progress bar: description, bar, percentage, further fields and remaining time.

    Args:
        console: where it is shown.
        fields: rich format strings of further columns, such as `{task.fields[rate]}`.
        transient: whether the bar disappears when done; such a bar is not shown in a log file.
    """
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=8 if console.width < _NARROW else 24),
        TaskProgressColumn(table_column=Column(no_wrap=True)),
        *(_FieldColumn(field, table_column=Column()) for field in fields),
        _TimeColumn(Column(no_wrap=True)),
        console=console,
        transient=transient,
        disable=transient and not console.is_terminal,
    )
