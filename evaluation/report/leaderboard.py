"""Tables of results: a row per model, a column per kind of measurement."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.results import (
    EMBEDDING_FILES,
    RANKING_METRIC,
    RERANKED,
    Row,
    comparable_settings,
    differing_settings,
    trajectories,
)
from llm_jp_modernbert.core.terminal import printable

if TYPE_CHECKING:
    import pandas
    from pandas.io.formats.style import Styler
    from rich.console import Console
    from rich.table import Table

MISSING = "–"

_NO_LIMIT = str(None)

_SCALE_NOTE = "Shares and correlations are multiplied by 100."

_CSV_FIELDS = (
    *("task", "dataset", "dataset_revision", "split", "examples"),
    *("metric", "higher_is_better", "protocol", "limit"),
)
_BOLD = "font-weight: bold"
_PAGE_STYLE = [
    {"selector": "", "props": "border-collapse: collapse; font-family: sans-serif"},
    {"selector": "td, th", "props": "padding: .3em .8em; text-align: right; border-bottom: 1px solid #ccc"},
    {"selector": "th.row_heading", "props": "text-align: left"},
]
_LATEX_SYMBOLS = str.maketrans({"±": "$\\pm$", "↑": "$\\uparrow$", "↓": "$\\downarrow$", MISSING: "--"})


@dataclass(frozen=True)
class Column:
    """The common properties of the values of one column: everything but the model and the seed."""

    task: str
    dataset: str
    dataset_revision: str
    split: str
    examples: int
    metric: str
    protocol: str
    limit: str
    settings: tuple[tuple[str, str], ...]
    train_files: tuple[str, ...]
    higher_is_better: bool
    scale: int
    averaged_with: tuple[str, ...]

    @property
    def heading(self) -> tuple[str, str]:
        """Two lines: the task, and the metric with its direction."""
        return self.task, f"{self.metric} {'↑' if self.higher_is_better else '↓'}"

    @property
    def data(self) -> str:
        """The dataset, with the user's training files if any."""
        return f"{self.dataset} fine-tuned on {', '.join(self.train_files)}" if self.train_files else self.dataset

    def format(self, value: float) -> str:
        """A value as tables show it: one decimal if scaled by 100, else four digits."""
        digits = self.digits(value)
        # Adding zero turns a rounded -0.0 into 0.0.
        return f"{round(self.scale * value, digits) + 0.0:,.{digits}f}"

    def digits(self, value: float) -> int:
        """Decimal places of a value."""
        if self.scale == 100:
            return 1
        return next((places for places, limit in enumerate((1000, 100, 10)) if abs(value) >= limit), 3)

    def distinctions(self, settings: Iterable[str]) -> list[str]:
        """Descriptions that may distinguish columns with equal headings, the most readable first.

        Args:
            settings: names of the settings to describe.
        """
        values = dict(self.settings)
        return [
            self.data,
            self.split,
            f"{self.protocol} protocol",
            f"{self.examples:,} examples",
            self.dataset_revision,
            *(f"{name.replace('_', ' ')} {values[name]}" if name in values else "" for name in settings),
        ]


def column_of(row: Row) -> Column:
    """The column of a value."""
    return Column(
        task=row.task,
        dataset=row.dataset,
        dataset_revision=row.dataset_revision,
        split=row.split,
        examples=row.examples,
        metric=row.metric,
        protocol=row.protocol,
        limit=str(row.settings.get("limit")),
        settings=comparable_settings(row),
        train_files=tuple(row.train_files),
        higher_is_better=row.higher_is_better,
        scale=row.scale,
        averaged_with=tuple(row.averaged_with),
    )


@dataclass(frozen=True)
class Cell:
    """A model's values of one column, one per seed."""

    values: tuple[float, ...]
    baselines: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)


@dataclass(frozen=True)
class Leaderboard:
    """The table.

    Attributes:
        columns: ordered by task.
        models: one per row.
        cells: by model and column; missing values are absent.
    """

    columns: list[Column]
    models: list[str]
    cells: dict[tuple[str, Column], Cell]

    def text(self, model: str, column: Column, mode: str = "mean") -> str:
        """Text of a cell: mean ± standard deviation over seeds, or the best seed."""
        cell = self.cells.get((model, column))
        if cell is None:
            return MISSING
        if mode == "best":
            return column.format(max(cell.values) if column.higher_is_better else min(cell.values))
        text = column.format(cell.mean)
        if len(cell.values) > 1:
            deviation = column.scale * statistics.stdev(cell.values)
            text += f" ± {deviation:,.{column.digits(cell.mean)}f}"
        return text

    def heading(self, column: Column) -> tuple[str, ...]:
        """The two lines of the column, and a third one: its limit, and the differences to columns with equal lines."""
        twins = [other for other in self.columns if other.heading == column.heading]
        names = sorted({name for twin in twins for name, _ in twin.settings})
        # Each entry describes all twins. A limit is always shown: the value is not that of the whole dataset.
        chosen = [tuple("" if twin.limit == _NO_LIMIT else f"limit {twin.limit}" for twin in twins)]
        for descriptions in zip(*(twin.distinctions(names) for twin in twins), strict=True):
            if len(set(zip(*chosen, strict=True))) == len(twins):
                break
            if len(set(descriptions)) > 1:
                chosen.append(descriptions)
        own = twins.index(column)
        third = ", ".join(filter(None, (texts[own] for texts in chosen)))
        return (*column.heading, third) if third else column.heading

    def baseline(self, column: Column) -> str | None:
        """The value of the simplest guess, if known."""
        for model in self.models:
            cell = self.cells.get((model, column))
            if cell and cell.baselines:
                return column.format(cell.baselines[0])
        return None

    def best(self, column: Column) -> list[str]:
        """The leading models of a column by the digits that are shown; empty if all models are equal."""
        means = {model: self.cells[model, column].mean for model in self.models if (model, column) in self.cells}
        texts = {model: column.format(mean) for model, mean in means.items()}
        if len(set(texts.values())) < 2:
            return []
        top = (max if column.higher_is_better else min)(means, key=lambda model: means[model])
        return [model for model, text in texts.items() if text == texts[top]]


def leaderboard(rows: Iterable[Row]) -> Leaderboard:
    """The table of the values over whole datasets; values of subsets are only in the files."""
    whole = [row for row in rows if not row.subset and row.value is not None]
    names = _names(whole)
    by_seed: dict[tuple[str, Column], dict[int, Row]] = {}
    for row, name in zip(whole, names, strict=True):
        by_seed.setdefault((name, column_of(row)), {})[row.seed] = row
    cells = {
        key: Cell(
            tuple(row.value for row in seeds.values() if row.value is not None),
            tuple(row.baseline for row in seeds.values() if row.baseline is not None),
        )
        for key, seeds in by_seed.items()
    }
    cells |= _means(cells)
    models = list(dict.fromkeys(model for model, _ in cells))
    # Checkpoints of a run are ordered by step, at the place of the first one.
    run_of = {model: run for run in trajectories(models) for model in run}
    models = list(dict.fromkeys(member for model in models for member in run_of.get(model, [model])))
    columns = sorted({column for _, column in cells}, key=_order)
    return Leaderboard(columns, models if run_of else _ranked(models, columns, cells), cells)


def _names(rows: Sequence[Row]) -> list[str]:
    """The name of each row's model. Two versions of one name are two models, as are two searches that it reranks."""
    versions: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        for part, version in enumerate(_versions(row)):
            versions.setdefault((row.model, part), set()).update(filter(None, [version]))
    names = []
    for row in rows:
        differing = [
            version.removeprefix("sha256:")[:8]
            for part, version in enumerate(_versions(row))
            if version and len(versions[row.model, part]) > 1
        ]
        reranked = [f", {row.settings[RERANKED]}"] if RERANKED in row.settings else []
        names.append("".join([row.model, *(f"@{version}" for version in differing), *reranked]))
    return names


def _versions(row: Row) -> tuple[str, str]:
    """Versions of the weights, and of the modules of an embedder."""
    return row.revision, str(row.settings.get(EMBEDDING_FILES, ""))


def _ranked(models: list[str], columns: Sequence[Column], cells: Mapping[tuple[str, Column], Cell]) -> list[str]:
    """Models ordered by their mean nDCG@10, the best first, if all tasks have this metric."""
    ranking = [column for column in columns if column.metric == RANKING_METRIC]
    if {column.task for column in columns} != {column.task for column in ranking}:
        return models

    def mean(model: str) -> float:
        values = [cells[model, column].mean for column in ranking if (model, column) in cells]
        return statistics.fmean(values) if values else 0.0

    return sorted(models, key=mean, reverse=True)


def _order(column: Column) -> tuple[str | int, ...]:
    # Numbers in a task's name are ordered by value: 512 tokens before 1024.
    task = re.sub(r"\d+", lambda number: number[0].zfill(9), column.task)
    settings = (part for pair in column.settings for part in pair)
    data = (column.protocol, task, column.data, column.dataset_revision, column.split)
    return (*data, column.limit, column.examples, column.metric != RANKING_METRIC, column.metric, *settings)


def _means(cells: Mapping[tuple[str, Column], Cell]) -> dict[tuple[str, Column], Cell]:
    """The mean of each model that has a value for every task, or every dataset, of the mean."""
    groups: dict[tuple[Any, ...], dict[str, Column]] = {}
    for model, column in cells:
        if names := column.averaged_with:
            is_over_tasks = column.task in names
            settings = (column.protocol, column.limit, *([column.settings] if is_over_tasks else [column.task]))
            group = groups.setdefault((model, names, settings), {})
            group[column.task if is_over_tasks else column.dataset] = column
    means: dict[tuple[str, Column], Cell] = {}
    for (model, names, _), by_name in groups.items():
        if set(by_name) == set(names):
            columns = [by_name[name] for name in names]
            mean = replace(
                columns[0],
                task=", ".join(dict.fromkeys(column.task for column in columns)),
                dataset=", ".join(column.dataset for column in columns),
                dataset_revision="; ".join(column.dataset_revision for column in columns),
                examples=sum(column.examples for column in columns),
                metric="mean",
                averaged_with=(),
            )
            means[model, mean] = Cell((statistics.fmean(cells[model, column].mean for column in columns),), ())
    return means


def render(table: Leaderboard, form: str, mode: str = "mean") -> str:
    """The table as text.

    Args:
        table: the table.
        form: `markdown`, `latex`, `csv` or `html`.
        mode: `mean` or `best` over seeds.

    Raises:
        UsageError: the table is empty, or the format is unknown.
    """
    if not table.columns:
        raise UsageError("no results to show. Make some with `llm-jp-modernbert evaluate`.")
    writers = {"markdown": _markdown, "latex": _latex, "csv": _csv, "html": _html}
    if form not in writers:
        raise UsageError(f"--format {form}: choose {', '.join(writers)}.")
    return writers[form](table, mode)


def _frames(table: Leaderboard, mode: str) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """The texts of all cells, and whether each is among the best."""
    import pandas

    headings = [table.heading(column) for column in table.columns]
    depth = max(map(len, headings))
    columns = pandas.MultiIndex.from_tuples([(*heading, "", "")[:depth] for heading in headings])
    texts = [[table.text(model, column, mode) for column in table.columns] for model in table.models]
    leaders = [table.best(column) for column in table.columns]
    best = [[model in leading for leading in leaders] for model in table.models]
    return pandas.DataFrame(texts, table.models, columns), pandas.DataFrame(best, table.models, columns)


def _markdown(table: Leaderboard, mode: str) -> str:
    texts, best = _frames(table, mode)
    lines = [markdown_line(["model", *("<br>".join(filter(None, heading)) for heading in texts.columns)])]
    lines.append(markdown_line(["---", *["---:"] * len(table.columns)]))
    for model, cells, bold in zip(table.models, texts.to_numpy(), best.to_numpy(), strict=True):
        shown = (f"**{text}**" if top else text for text, top in zip(cells, bold, strict=True))
        lines.append(markdown_line([model, *shown]))
    return "\n".join([*lines, "", *(f"* {note}" for note in _notes(table)), ""])


def markdown_line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _styled(table: Leaderboard, mode: str, escape: Literal["latex", "html"]) -> Styler:
    texts, best = _frames(table, mode)
    styled = texts.style.apply(lambda _: best.replace({True: _BOLD, False: ""}), axis=None).format(escape=escape)
    return styled.format_index(escape=escape, axis=0).format_index(escape=escape, axis=1)


def _latex(table: Leaderboard, mode: str) -> str:
    styled = _styled(table, mode, "latex")
    columns = "l" + "r" * len(table.columns)
    latex = styled.to_latex(column_format=columns, hrules=True, convert_css=True, sparse_columns=False)
    notes = "".join(f"% {note}\n" for note in _notes(table))
    return str(latex).translate(_LATEX_SYMBOLS) + notes


def _html(table: Leaderboard, mode: str) -> str:
    from html import escape

    # Without an identifier of its own, pandas draws a random one.
    styled = _styled(table, mode, "html").set_uuid("results").set_table_styles(_PAGE_STYLE)
    page = str(styled.to_html(doctype_html=True, sparse_columns=False))
    notes = "".join(f"<li>{escape(note)}</li>" for note in _notes(table))
    return page.replace("</body>", f"<ul>{notes}</ul>\n</body>")


def _csv(table: Leaderboard, mode: str) -> str:
    """One line per value, in full precision."""
    import pandas

    lines = []
    for model in table.models:
        for column in table.columns:
            cell = table.cells.get((model, column), Cell((), ()))
            best = max if column.higher_is_better else min
            value = (best(cell.values) if mode == "best" else cell.mean) if cell.values else None
            lines.append(
                {
                    "model": model,
                    **{name: getattr(column, name) for name in _CSV_FIELDS},
                    "settings": "; ".join(f"{name} {setting}" for name, setting in column.settings),
                    "train_files": "; ".join(column.train_files),
                    "seeds": len(cell.values),
                    "value": value,
                    "standard_deviation": statistics.stdev(cell.values) if len(cell.values) > 1 else None,
                    "baseline": cell.baselines[0] if cell.baselines else None,
                }
            )
    return pandas.DataFrame(lines).to_csv(index=False)


def _notes(table: Leaderboard) -> list[str]:
    """A description of the data and settings of the columns, one per dataset."""
    visible = attrgetter("task", "data", "split", "protocol")
    by_data: dict[Column, list[Column]] = {}
    for column in table.columns:
        data = replace(column, metric="", higher_is_better=True, scale=1, averaged_with=())
        by_data.setdefault(data, []).append(column)
    notes = []
    for data, columns in by_data.items():
        twins = [other.settings for other in by_data if visible(other) == visible(data)]
        note = f"{data.task} ({', '.join(column.metric for column in columns)}): {data.data}"
        note += f" ({data.dataset_revision}), {data.split}, {data.examples:,} examples, {data.protocol} protocol"
        note += "" if data.limit == _NO_LIMIT else f", limit {data.limit}"
        note += "".join(f", {setting}" for setting in differing_settings(data.settings, twins))
        guesses = [f"{column.metric} {guess}" for column in columns if (guess := table.baseline(column)) is not None]
        notes.append(f"{note}; majority baseline: {', '.join(guesses)}" if guesses else note)
    if any(column.scale == 100 for column in table.columns):
        notes.append(_SCALE_NOTE)
    return notes


def show(rows: Iterable[Row], console: Console, mode: str = "mean") -> None:
    """Prints a table with a row for each metric and a column for each model; `mode` as in `render`.

    Models that do not fit the width of the console follow in further tables.
    """
    board = leaderboard(rows)
    names = {model: printable(model) for model in board.models}
    if not _fits(_screen(board, names, mode), console):
        # Names too long for headings are listed above the table.
        names = {model: f"({number})" for number, model in enumerate(names, start=1)}
        for model, number in names.items():
            console.print(f"{number} {printable(model)}", highlight=False, markup=False, soft_wrap=True)
    rest = list(board.models)
    while rest:
        shown = len(rest)
        while shown > 1 and not _fits(_screen(board, {model: names[model] for model in rest[:shown]}, mode), console):
            shown -= 1
        console.print(_screen(board, {model: names[model] for model in rest[:shown]}, mode))
        del rest[:shown]
    if any(column.scale == 100 for column in board.columns):
        console.print(f"[dim]{_SCALE_NOTE}[/]", highlight=False)


def _fits(screen: Table, console: Console) -> bool:
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(max_width=sys.maxsize), screen).maximum <= console.width


def _screen(board: Leaderboard, names: Mapping[str, str], mode: str) -> Table:
    """The columns of some models, by name, with a row for each metric, grouped by task."""
    from rich.table import Table
    from rich.text import Text

    screen = Table(box=None)
    screen.add_column("metric", no_wrap=True)
    for name in names.values():
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
        cells = [Text(board.text(model, column, mode), style="bold" if model in best else "") for model in names]
        _, metric, *distinction = board.heading(column)
        label = Text(f"  {metric}")
        for part in distinction or (column.split,):
            label.append(f"  {part}", style="dim")
        screen.add_row(label, *cells, *([Text(baseline or "")] if any(baselines) else []))
    return screen
