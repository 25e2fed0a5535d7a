"""Tables of results: a row for each model, a column for each figure, never two kinds of measurement in one column."""

from __future__ import annotations

import csv
import html
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llm_jp_modernbert.errors import UsageError

from .results import Row

if TYPE_CHECKING:
    from rich.console import Console

FORMATS = ("markdown", "latex", "csv", "html")
MISSING = "–"

_PERCENT = (
    "mean",
    "recall",
    "mrr",
    "ndcg",
    "map",
    "pearson",
    "spearman",
    "cosine",
    "f1",
    "exact_match",
    "precision",
    "mcc",
    "auc",
    "v_measure",
)

# The paper's mean over tasks is of these.
_JGLUE = {"jsts": "pearson", "jnli": "accuracy", "jcola": "accuracy"}


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
    higher_is_better: bool

    @property
    def heading(self) -> tuple[str, str]:
        """Two lines."""
        arrow = "↑" if self.higher_is_better else "↓"
        return self.task, f"{self.metric} {arrow}"


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
        scale = 100 if column.metric.startswith(_PERCENT) or column.metric.endswith("accuracy") else 1
        digits = 1 if scale == 100 else 3
        if mode == "best":
            best = max(cell.values) if column.higher_is_better else min(cell.values)
            return f"{scale * best:.{digits}f}"
        spread = f" ± {scale * statistics.stdev(cell.values):.{digits}f}" if len(cell.values) > 1 else ""
        return f"{scale * cell.mean:.{digits}f}{spread}"

    def best(self, column: Column) -> list[str]:
        """The models that lead a column; none where there is no other to lead."""
        means = {model: self.cells[model, column].mean for model in self.models if (model, column) in self.cells}
        if len(means) < 2:
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
        values.setdefault((name, _column(row)), {})[row.seed] = row
    cells = {
        key: Cell(
            tuple(float(row.value) for row in by_seed.values() if row.value is not None),
            tuple(row.baseline for row in by_seed.values() if row.baseline is not None),
        )
        for key, by_seed in values.items()
    }
    cells |= _jglue_means(cells)
    columns = sorted(
        {column for _, column in cells}, key=lambda one: (one.protocol, one.task, one.dataset, one.split, one.metric)
    )
    return Leaderboard(columns, list(dict.fromkeys(model for model, _ in cells)), cells)


def _jglue_means(cells: Mapping[tuple[str, Column], Cell]) -> dict[tuple[str, Column], Cell]:
    """The mean of JSTS, JNLI and JCoLA of each model that has all three, trained on their own files."""
    found: dict[tuple[str, str, str], dict[str, tuple[Column, Cell]]] = {}
    for (model, column), cell in cells.items():
        official = column.dataset.lower() == column.task and column.split == "validation"
        if official and _JGLUE.get(column.task) == column.metric:
            found.setdefault((model, column.protocol, column.limit), {})[column.task] = (column, cell)
    means: dict[tuple[str, Column], Cell] = {}
    for (model, _, _), parts in found.items():
        if len(parts) == len(_JGLUE):
            columns, of_tasks = zip(*(parts[task] for task in _JGLUE), strict=True)
            column = replace(
                columns[0],
                task="jglue",
                dataset=", ".join(one.dataset for one in columns),
                dataset_revision="; ".join(one.dataset_revision for one in columns),
                examples=sum(one.examples for one in columns),
                metric="mean",
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
    from rich.table import Table
    from rich.text import Text

    table = leaderboard(rows)
    screen = Table(box=None)
    for heading in ("task", "figure", "split"):
        screen.add_column(heading, no_wrap=True)
    for model in table.models:
        screen.add_column(model, justify="right", overflow="fold")
    baselines = any(cell.baselines for cell in table.cells.values())
    if baselines:
        screen.add_column("simplest guess", justify="right")
    for column in table.columns:
        best = table.best(column)
        cells = [Text(table.text(model, column), style="bold" if model in best else "") for model in table.models]
        known = [value for model in table.models for value in table.cells.get((model, column), Cell((), ())).baselines]
        guess = Leaderboard([column], ["guess"], {("guess", column): Cell((known[0],), ())}) if known else None
        last = [Text(guess.text("guess", column) if guess else "")] if baselines else []
        screen.add_row(*column.heading, column.split, *cells, *last)
    console.print(screen)


def _column(row: Row) -> Column:
    return Column(
        row.task,
        row.dataset,
        row.dataset_revision,
        row.split,
        row.examples,
        row.metric,
        row.protocol,
        str(row.settings.get("limit")),
        row.higher_is_better,
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


def _notes(table: Leaderboard) -> list[str]:
    return [
        f"{column.task} {column.metric}: {column.dataset} ({column.dataset_revision}), {column.split}, "
        f"{column.examples:,} examples, {column.protocol} protocol"
        for column in table.columns
    ]


def _markdown(table: Leaderboard, mode: str) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    heads = ["model", *("<br>".join(column.heading) for column in table.columns)]
    lines = [line(heads), line(["---", *["---:"] * len(table.columns)])]
    lines += [line(cells) for cells in _table(table, mode, "**{}**")]
    return "\n".join([*lines, "", *(f"* {note}" for note in _notes(table)), ""])


def _latex(table: Leaderboard, mode: str) -> str:
    def escape(text: str) -> str:
        for one in "&%$#_{}":
            text = text.replace(one, f"\\{one}")
        signs = (("±", "$\\pm$"), ("↑", "$\\uparrow$"), ("↓", "$\\downarrow$"), (MISSING, "--"))
        for sign, written in signs:
            text = text.replace(sign, written)
        return text

    best = {column: table.best(column) for column in table.columns}
    lines = [f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}", "\\toprule"]
    for part in (0, 1):
        heads = ["model" if part else "", *(column.heading[part] for column in table.columns)]
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
    writer.writerow([*names, "protocol", "limit", "seeds", "value", "standard_deviation"])
    for model in table.models:
        for column in table.columns:
            cell = table.cells.get((model, column))
            values = cell.values if cell else ()
            chosen = max if column.higher_is_better else min
            value = "" if not cell else chosen(values) if mode == "best" else cell.mean
            spread = statistics.stdev(values) if len(values) > 1 else ""
            what = [column.task, column.dataset, column.dataset_revision, column.split, column.examples, column.metric]
            writer.writerow(
                [model, *what, column.higher_is_better, column.protocol, column.limit, len(values), value, spread]
            )
    return out.getvalue()


def _html(table: Leaderboard, mode: str) -> str:
    def cells(tag: str, texts: Iterable[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    best = {column: table.best(column) for column in table.columns}
    lines = [cells("th", ["model", *("<br>".join(map(html.escape, one.heading)) for one in table.columns)])]
    for model in table.models:
        texts = [html.escape(model)]
        for column in table.columns:
            text = html.escape(table.text(model, column, mode))
            texts.append(f"<b>{text}</b>" if model in best[column] else text)
        lines.append(cells("td", texts))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in _notes(table))
    style = "table{border-collapse:collapse;font-family:sans-serif}td,th{padding:.3em .8em;text-align:right;"
    style += "border-bottom:1px solid #ccc}td:first-child,th:first-child{text-align:left}"
    head = f"<meta charset='utf-8'><title>Results</title><style>{style}</style>"
    body = "\n".join(lines)
    page = f"<head>{head}</head><body><table>\n{body}\n</table><ul>{notes}</ul></body>"
    return f"<!doctype html>\n<html lang='ja'>{page}</html>\n"
