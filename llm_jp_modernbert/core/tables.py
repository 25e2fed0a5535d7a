"""Tables and pages of a command: for the terminal and for report.md."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Screen
from rich.text import Text

from .files import write_whole
from .terminal import console, printable

REPORT = "report.md"
"""File of all tables and plots, in the directory of a model."""

MISSING = "–"

_LONGEST_NAME, _SHORTEST_NAME = 40, 8


@dataclass(frozen=True)
class Table:
    """A table as text or Markdown; the first columns are names, the others figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1

    def text(self, most: int | None = None) -> str:
        """The table as lines of the terminal's width.

        Args:
            most: maximum rows.
        """
        screen = Screen(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
        for place, (column, width) in enumerate(zip(self.columns, self._widths(), strict=True)):
            overflow, justify = ("ellipsis", "left") if place < self.names else ("fold", "right")
            screen.add_column(Text(column), justify=justify, no_wrap=True, overflow=overflow, max_width=width)  # type: ignore[arg-type]
        for row in self.rows[:most]:
            screen.add_row(*(Text(printable(cell)) for cell in row))
        canvas = Console(file=io.StringIO(), width=console().width - 2, color_system=None, legacy_windows=False)
        with canvas.capture() as captured:
            canvas.print(screen)
        lines = [line.rstrip() for line in captured.get().splitlines()]
        hidden = len(self.rows) - (len(self.rows) if most is None else most)
        more = [f"… {hidden:,} more in {REPORT}"] if hidden > 0 else []
        return "\n".join([self.title, *(f"  {line}" for line in (*lines, *more))])

    def _widths(self) -> list[int]:
        """Width of each column; names are shortened until the figures fit, the longest first."""
        widths = [max(map(cell_len, map(printable, cells))) for cells in zip(self.columns, *self.rows, strict=True)]
        widths[: self.names] = [min(width, _LONGEST_NAME) for width in widths[: self.names]]
        # Columns are two spaces apart, and a table is indented by two.
        room = console().width - 4 - 2 * (len(widths) - 1)
        while sum(widths) > room and max(widths[: self.names]) > _SHORTEST_NAME:
            widths[widths.index(max(widths[: self.names]))] -= 1
        return widths

    def markdown(self) -> str:
        """The table in Markdown, below its title as a heading."""
        rule = ["---" if place < self.names else "---:" for place in range(len(self.columns))]
        lines = [_markdown_line(cells) for cells in (self.columns, rule, *self.rows)]
        return "\n".join([f"## {self.title}", "", *lines, ""])


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(printable(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def write_page(
    path: Path, title: str, facts: Iterable[str], tables: Iterable[Table], plots: Path, closing: str
) -> None:
    """Writes a page in Markdown.

    Args:
        path: the file.
        title: its heading.
        facts: lines of a list below the heading.
        tables: sections that follow.
        plots: directory next to the file, whose plots are shown.
        closing: last line.
    """
    text = [f"# {title}", "", *(f"* {_escaped(fact)}" for fact in facts), ""]
    text += [table.markdown() for table in tables]
    names = sorted(plot.stem for plot in plots.glob("*.png"))
    text += ["## Plots", "", *(f"![{name}]({plots.name}/{name}.png)" for name in names), "", closing, ""]
    write_whole(path, "\n".join(text))


def _escaped(text: str) -> str:
    one_line = printable(text.replace(".\n  ", ": ").replace("\n  ", "; "))
    return one_line.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def percentage(value: float | None) -> str:
    """A share or correlation × 100 with one decimal; a dash for None."""
    return MISSING if value is None else f"{100 * value:.1f}"
