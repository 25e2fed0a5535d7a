"""Tables of results: a row for each model, a column for each figure, never two kinds of measurement in one column."""

from __future__ import annotations

import csv
import html
import io
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError

from .plots import trajectories
from .results import Row, comparable_settings, differing_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FORMATS = ("markdown", "latex", "csv", "html")
MISSING = "–"

_NO_LIMIT = str(None)

_SCALE_NOTE = "Shares and correlations are times 100."


@dataclass(frozen=True)
class Column:
    """What the figures of one column have in common: all but the model and the seed."""

    task: str
    dataset: str
    dataset_revision: str
    split: str
    examples: int
    metric: str
    protocol: str
    limit: str
    settings: tuple[tuple[str, str], ...]
    higher_is_better: bool
    scale: int
    averaged_with: tuple[str, ...]

    @property
    def heading(self) -> tuple[str, str]:
        """Two lines."""
        arrow = "↑" if self.higher_is_better else "↓"
        return self.task, f"{self.metric} {arrow}"

    def digits(self, value: float) -> int:
        """Decimal places that a value is shown with: one of a hundred, else what makes four figures of it."""
        if self.scale == 100:
            return 1
        return next((places for places, limit in enumerate((1000, 100, 10)) if abs(value) >= limit), 3)


def _setting(name: str, column: Column) -> str:
    value = dict(column.settings).get(name)
    return "" if value is None else f"{name.replace('_', ' ')} {value}"


# What may tell two columns of one heading apart; the first of these that do so are named.
_TELLING: tuple[Callable[[Column], str], ...] = (
    lambda column: column.dataset,
    lambda column: column.split,
    lambda column: f"{column.protocol} protocol",
    lambda column: "" if column.limit == _NO_LIMIT else f"limit {column.limit}",
    lambda column: f"{column.examples:,} examples",
    lambda column: column.dataset_revision,
)


@dataclass(frozen=True)
class Cell:
    """A model's figures under one column, one for each seed."""

    values: tuple[float, ...]
    baselines: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values)


@dataclass(frozen=True)
class Leaderboard:
    """The table.

    Attributes:
        columns: in the order of tasks.
        models: a row each.
        cells: by model and column, where there is a figure.
    """

    columns: list[Column]
    models: list[str]
    cells: dict[tuple[str, Column], Cell]

    def text(self, model: str, column: Column, mode: str = "mean") -> str:
        """What a cell reads: mean ± standard deviation over seeds, or the best of them."""
        cell = self.cells.get((model, column))
        if cell is None:
            return MISSING
        shown = cell.mean
        if mode == "best":
            shown = max(cell.values) if column.higher_is_better else min(cell.values)
        scale, digits = column.scale, column.digits(shown)
        several = mode == "mean" and len(cell.values) > 1
        spread = f" ± {scale * statistics.stdev(cell.values):,.{digits}f}" if several else ""
        return f"{scale * shown:,.{digits}f}{spread}"

    def heading(self, column: Column) -> tuple[str, ...]:
        """The column's two lines, and a third where others have the same: what tells it from them."""
        twins = [other for other in self.columns if other.heading == column.heading]
        told: list[Callable[[Column], str]] = []
        names = sorted({name for twin in twins for name, _ in twin.settings})
        settings: list[Callable[[Column], str]] = [partial(_setting, name) for name in names]
        for part in (*_TELLING, *settings):
            if len({tuple(one(twin) for one in told) for twin in twins}) == len(twins):
                break
            if len({part(twin) for twin in twins}) > 1:
                told.append(part)
        return (*column.heading, ", ".join(one(column) for one in told)) if told else column.heading

    def baseline(self, column: Column) -> str | None:
        """What the simplest guess reaches, where that is told."""
        for model in self.models:
            cell = self.cells.get((model, column))
            if cell and cell.baselines:
                alone = Cell((cell.baselines[0],), ())
                return Leaderboard([column], ["guess"], {("guess", column): alone}).text("guess", column)
        return None

    def best(self, column: Column) -> list[str]:
        """The models that lead a column; none where there is no other, or all are equal."""
        means = {model: self.cells[model, column].mean for model in self.models if (model, column) in self.cells}
        if len(set(means.values())) < 2:
            return []
        top = max(means.values()) if column.higher_is_better else min(means.values())
        return [model for model, value in means.items() if value == top]


def leaderboard(rows: Iterable[Row]) -> Leaderboard:
    """The table of rows that are of whole datasets; rows of subsets are left to the files."""
    values: dict[tuple[str, Column], dict[int, Row]] = {}
    models: dict[str, set[str]] = {}
    kept = [row for row in rows if not row.subset and row.value is not None]
    for row in kept:
        models.setdefault(row.model, set()).add(row.revision)
    for row in kept:
        # Two revisions of one model are two models.
        name = row.model if len(models[row.model]) == 1 else f"{row.model}@{row.revision.removeprefix('sha256:')[:8]}"
        values.setdefault((name, column_of(row)), {})[row.seed] = row
    cells = {
        key: Cell(
            tuple(float(row.value) for row in by_seed.values() if row.value is not None),
            tuple(row.baseline for row in by_seed.values() if row.baseline is not None),
        )
        for key, by_seed in values.items()
    }
    cells |= _means_over_tasks(cells)
    columns = sorted({column for _, column in cells}, key=_order)
    return Leaderboard(columns, _in_order(list(dict.fromkeys(model for model, _ in cells))), cells)


def _in_order(models: list[str]) -> list[str]:
    """Models as they come, but checkpoints of one run by their steps, at the place of the first of them."""
    run_of = {model: run for run in trajectories(models) for model in run}
    return list(dict.fromkeys(one for model in models for one in run_of.get(model, [model])))


def _order(column: Column) -> tuple[str | int, ...]:
    # Parts of a task stand in the order of their numbers: 512 tokens before 1024.
    task = re.sub(r"\d+", lambda number: number[0].zfill(9), column.task)
    data = (column.protocol, task, column.dataset, column.dataset_revision, column.split)
    return (*data, column.limit, column.examples, column.metric, *(part for pair in column.settings for part in pair))


def _means_over_tasks(cells: Mapping[tuple[str, Column], Cell]) -> dict[tuple[str, Column], Cell]:
    """The mean of each model that has a value for every task of the mean."""
    groups: dict[tuple[Any, ...], dict[str, tuple[Column, Cell]]] = {}
    for (model, column), cell in cells.items():
        if column.averaged_with:
            group = (model, column.averaged_with, column.protocol, column.limit, column.settings)
            groups.setdefault(group, {})[column.task] = (column, cell)
    means: dict[tuple[str, Column], Cell] = {}
    for (model, tasks, *_), parts in groups.items():
        if set(parts) == set(tasks):
            columns, of_tasks = zip(*(parts[task] for task in tasks), strict=True)
            column = replace(
                columns[0],
                task=", ".join(tasks),
                dataset=", ".join(one.dataset for one in columns),
                dataset_revision="; ".join(one.dataset_revision for one in columns),
                examples=sum(one.examples for one in columns),
                metric="mean",
                averaged_with=(),
            )
            means[model, column] = Cell((statistics.fmean(one.mean for one in of_tasks),), ())
    return means


def render(table: Leaderboard, form: str, mode: str = "mean") -> str:
    """The table as text.

    Args:
        table: what is shown.
        form: one of `FORMATS`.
        mode: `mean` or `best` over seeds.

    Raises:
        UsageError: there is nothing to show, or no such form.
    """
    if not table.columns:
        raise UsageError("there are no results to show. Make some with `llm-jp-modernbert evaluate`.")
    if form not in FORMATS:
        raise UsageError(f"--format {form}: choose {', '.join(FORMATS)}.")
    writer = {"markdown": _markdown, "latex": _latex, "csv": _csv, "html": _html}[form]
    return writer(table, mode)


def show(rows: Iterable[Row], console: Console) -> None:
    """The figures of a call on the screen: a row for each figure, a column for each model."""
    from rich.measure import Measurement

    board = leaderboard(rows)
    screen = _screen(board, board.models)
    wanted = Measurement.get(console, console.options.update(max_width=sys.maxsize), screen).maximum
    if wanted > console.width:
        # Names that are too long for headings stand above the table.
        numbers = [f"({number})" for number in range(1, len(board.models) + 1)]
        for number, model in zip(numbers, board.models, strict=True):
            console.print(f"{number} {model}", highlight=False, markup=False, soft_wrap=True)
        screen = _screen(board, numbers)
    console.print(screen)
    if any(column.scale == 100 for column in board.columns):
        console.print(f"[dim]{_SCALE_NOTE}[/]")


def _screen(board: Leaderboard, names: Sequence[str]) -> Table:
    """The board with a row for each figure, below the name of its task."""
    from rich.table import Table
    from rich.text import Text

    screen = Table(box=None)
    screen.add_column("figure")
    for name in names:
        screen.add_column(Text(name), justify="right", no_wrap=True)
    baselines = [board.baseline(column) for column in board.columns]
    if any(baselines):
        screen.add_column("majority\nbaseline", justify="right", no_wrap=True)
    task = None
    for column, baseline in zip(board.columns, baselines, strict=True):
        if column.task != task:
            task = column.task
            screen.add_row(Text(task, style="bold"))
        best = board.best(column)
        cells = [Text(board.text(model, column), style="bold" if model in best else "") for model in board.models]
        _, figure, *told = board.heading(column)
        shown = Text(f"  {figure}")
        for part in told or (column.split,):
            shown.append(f"  {part}", style="dim")
        screen.add_row(shown, *cells, *([Text(baseline or "")] if any(baselines) else []))
    return screen


def column_of(row: Row) -> Column:
    """The column that a figure stands in."""
    return Column(
        row.task,
        row.dataset,
        row.dataset_revision,
        row.split,
        row.examples,
        row.metric,
        row.protocol,
        str(row.settings.get("limit")),
        comparable_settings(row),
        row.higher_is_better,
        row.scale,
        tuple(row.averaged_with),
    )


def _table(table: Leaderboard, mode: str, bold: str) -> list[list[str]]:
    best = {column: table.best(column) for column in table.columns}
    return [
        [
            model,
            *(
                bold.format(table.text(model, column, mode))
                if model in best[column]
                else table.text(model, column, mode)
                for column in table.columns
            ),
        ]
        for model in table.models
    ]


def _shared_heading(column: Column) -> tuple[str, ...]:
    return column.task, column.dataset, column.split, column.protocol


def _notes(table: Leaderboard) -> list[str]:
    """What the columns are of, those of the same data together."""
    together: dict[Column, list[Column]] = {}
    for column in table.columns:
        together.setdefault(replace(column, metric="", higher_is_better=True, scale=1, averaged_with=()), []).append(
            column
        )
    notes = []
    for data, columns in together.items():
        twins = [other.settings for other in together if _shared_heading(other) == _shared_heading(data)]
        note = f"{data.task} ({', '.join(column.metric for column in columns)}): {data.dataset}"
        note += f" ({data.dataset_revision}), {data.split}, {data.examples:,} examples, {data.protocol} protocol"
        note += "" if data.limit == _NO_LIMIT else f", limit {data.limit}"
        note += "".join(f", {setting}" for setting in differing_settings(data.settings, twins))
        guesses = [f"{column.metric} {guess}" for column in columns if (guess := table.baseline(column)) is not None]
        notes.append(f"{note}; majority baseline: {', '.join(guesses)}" if guesses else note)
    if any(column.scale == 100 for column in table.columns):
        notes.append(_SCALE_NOTE)
    return notes


def _markdown(table: Leaderboard, mode: str) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    heads = ["model", *("<br>".join(table.heading(column)) for column in table.columns)]
    lines = [line(heads), line(["---", *["---:"] * len(table.columns)])]
    lines += [line(cells) for cells in _table(table, mode, "**{}**")]
    return "\n".join([*lines, "", *(f"* {note}" for note in _notes(table)), ""])


_IN_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "±": "$\\pm$",
        "↑": "$\\uparrow$",
        "↓": "$\\downarrow$",
        MISSING: "--",
    }
)


def _latex(table: Leaderboard, mode: str) -> str:
    def escape(text: str) -> str:
        return text.translate(_IN_LATEX)

    best = {column: table.best(column) for column in table.columns}
    lines = [f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}", "\\toprule"]
    headings = [table.heading(column) for column in table.columns]
    depth = max(map(len, headings))
    for part in range(depth):
        heads = ["model" if part == depth - 1 else "", *("".join(heading[part : part + 1]) for heading in headings)]
        lines.append(" & ".join(map(escape, heads)) + " \\\\")
    lines.append("\\midrule")
    for model in table.models:
        cells = [escape(model)]
        for column in table.columns:
            text = escape(table.text(model, column, mode))
            cells.append(f"\\textbf{{{text}}}" if model in best[column] else text)
        lines.append(" & ".join(cells) + " \\\\")
    comments = [f"% {note}" for note in _notes(table)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *comments, ""])


def _csv(table: Leaderboard, mode: str) -> str:
    """One line for each figure, in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["model", "task", "dataset", "dataset_revision", "split", "examples", "metric", "higher_is_better"]
    writer.writerow([*names, "protocol", "limit", "settings", "seeds", "value", "standard_deviation", "baseline"])
    for model in table.models:
        for column in table.columns:
            cell = table.cells.get((model, column))
            values = cell.values if cell else ()
            chosen = max if column.higher_is_better else min
            value = "" if not cell else chosen(values) if mode == "best" else cell.mean
            spread = statistics.stdev(values) if len(values) > 1 else ""
            settings = "; ".join(f"{name} {setting}" for name, setting in column.settings)
            what = [column.task, column.dataset, column.dataset_revision, column.split, column.examples, column.metric]
            writer.writerow(
                [
                    *(model, *what, column.higher_is_better, column.protocol, column.limit, settings, len(values)),
                    *(value, spread, cell.baselines[0] if cell and cell.baselines else ""),
                ]
            )
    return out.getvalue()


def _html(table: Leaderboard, mode: str) -> str:
    def cells(tag: str, texts: Iterable[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    best = {column: table.best(column) for column in table.columns}
    lines = [cells("th", ["model", *("<br>".join(map(html.escape, table.heading(one))) for one in table.columns)])]
    for model in table.models:
        texts = [html.escape(model)]
        for column in table.columns:
            text = html.escape(table.text(model, column, mode))
            texts.append(f"<b>{text}</b>" if model in best[column] else text)
        lines.append(cells("td", texts))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in _notes(table))
    style = "body{font-family:sans-serif;margin:2em}table{border-collapse:collapse}"
    style += "td,th{padding:.3em .8em;text-align:right;white-space:nowrap;border-bottom:1px solid #ccc}"
    style += "td:first-child,th:first-child{text-align:left}ul{color:#555;font-size:.9em}"
    head = f"<meta charset='utf-8'><title>Results</title><style>{style}</style>"
    body = "\n".join(lines)
    page = f"<head>{head}</head><body><table>\n{body}\n</table><ul>{notes}</ul></body>"
    return f"<!doctype html>\n<html lang='ja'>{page}</html>\n"
