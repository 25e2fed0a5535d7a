"""The measured part of benchmarks/README.md, written from a file of results: no figure in it is typed by hand."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import write_whole

from .cases import length_cost
from .cases.fill_mask import SAME_FIRST
from .measure import Measured
from .models import VOCABULARY
from .plot import FILE as PLOT
from .results import Compared, by_case, comparisons, marked, measured_of
from .table import TITLES

BEGIN, END = "<!-- measured: python -m benchmarks readme -->", "<!-- end of what is measured -->"

README = Path(__file__).with_name("README.md")


def rewrite(content: dict[str, Any], folder: Path, path: Path = README) -> None:
    """Puts the tables of a file of results between the marks of the README.

    Args:
        content: of the file.
        folder: that it lies in, with its plot.
        path: the README.

    Raises:
        UsageError: the README lacks the marks.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"{path} lacks the marks between which tables are written: {BEGIN} and {END}.")
    link = Path(os.path.relpath(folder / PLOT, path.parent)).as_posix()
    write_whole(path, f"{before}{BEGIN}\n\n{measured_part(content, link)}\n\n{END}{after}")


def measured_part(content: dict[str, Any], plot: str) -> str:
    """The machine, the tables and the plot in Markdown.

    Args:
        content: of a file of results.
        plot: path of the plot as the README links to it.
    """
    compared = comparisons(content)
    parts = [_conditions(content)]
    if compared:
        parts += [f"![Ratios to transformers]({plot})", _ratios(compared), *_floors(compared)]
        parts += ["### Speeds and settings", _candidates(compared)]
    cost = [measured_of(case) for case in content["cases"] if case["row"] == 8]
    if cost:
        parts += [f"### {TITLES[8]}", _cost(cost)]
    if content["left out"]:
        parts.append(f"Not measured for want of data: rows {', '.join(map(str, content['left out']))}.")
    return "\n\n".join(parts)


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:,.0f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _conditions(content: dict[str, Any]) -> str:
    machine, settings = content["machine"], content["settings"]
    rates = ", ".join(
        f"{_range([case['matrix rate'][dtype] / 1e9 for case in content['cases']])} GFLOP/s in {dtype}"
        for dtype in content["matrix rate"]
    )
    sets = ", ".join(machine["instruction sets"])
    libraries = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    memory = f", {machine['memory GB']} GB" if "memory GB" in machine else ""
    gpu = "" if machine["name"] == machine["processor"] else f"{machine['name']} (CUDA {machine.get('CUDA')}); "
    commands = " and ".join(f"`{command}`" for command in dict.fromkeys(case["command"] for case in content["cases"]))
    turns = _plural(settings["turns"], "turn")
    if settings["long_turns"] != settings["turns"]:
        turns += f", of {settings['long_turns']} where one takes long"
    return "\n".join(
        [
            f"* Machine: {gpu}{machine['processor']}, {_plural(machine['cores'], 'core')}{memory}, "
            f"{machine['system']}; {sets}.",
            f"* Its best matrix product, with {_plural(machine['threads'], 'thread')}: {rates}.",
            f"* Versions: {libraries}.",
            f"* Models: shape {settings['shape']}, vocabulary of {VOCABULARY:,}, random weights.",
            f"* Measured by {commands}; median of {turns}.",
        ]
    )


def _ratios(compared: Sequence[Compared]) -> str:
    speed = ("row", "what", "against", "this library", "compiled", "goal", "floor")
    return _table((*speed, "extra peak memory", "compiled", "goal"), [_ratio_cells(one) for one in compared])


def _ratio_cells(one: Compared) -> list[str]:
    return [
        str(one.row),
        one.measured.name,
        one.goal.against,
        f"{one.ratio:.2f} ×",
        _or_nothing(one.compiled, "{:.2f} ×"),
        marked("{:g} ×", one.goal.ratio, one.best, operator.ge),
        _or_nothing(one.floor, "{:.1f} ×"),
        _or_nothing(one.memory, "{:.0%}"),
        _or_nothing(one.compiled_memory, "{:.0%}"),
        marked("{:.0%}", one.goal.memory, one.least_memory, operator.le),
    ]


def _floors(compared: Sequence[Compared]) -> list[str]:
    """What the machine does not allow."""
    near = [one for one in compared if one.floor and one.goal.ratio and one.floor < one.goal.ratio]
    return [
        f"{one.measured.name}: the floor, {one.floor:.2f} × {one.goal.against}, is nearer than the goal of "
        f"{one.goal.ratio:g} ×, which is hardly to be had on this machine."
        for one in near
    ]


def _candidates(compared: Sequence[Compared]) -> str:
    rows = []
    for group in by_case(compared):
        measured = group[0].measured
        for name in measured.rates:
            megabytes = measured.extra_peak_megabytes.get(name)
            same = measured.settings.get(SAME_FIRST, {}).get(name)
            rows.append(
                [
                    measured.name if name == next(iter(measured.rates)) else "",
                    name,
                    f"{measured.median(name):,.{0 if measured.median(name) >= 100 else 1}f} {measured.unit}/s",
                    _or_nothing(megabytes, "{:,.0f} MB"),
                    _or_nothing(same, "{:.1%}"),
                ]
            )
    settings = [
        f"* {group[0].measured.name}: "
        + ", ".join(f"{key} {_plain(value)}" for key, value in group[0].measured.settings.items() if key != SAME_FIRST)
        + "."
        for group in by_case(compared)
    ]
    titles = ("what", "who", "median", "extra peak memory", SAME_FIRST)
    return _table(titles, rows) + "\n\n" + "\n".join(settings)


def _cost(measured: Sequence[Measured]) -> str:
    lengths = measured[0].settings["lengths"]
    names = [length_cost.name_of(length) for length in lengths]
    rows = []
    for one in measured:
        per_token = [1 / one.ratio(name) for name in names]
        counted = [one.operations[name] / one.operations[names[0]] for name in names]
        for title, values in (("time per token", per_token), ("operations per token", counted)):
            rows.append([one.name, title, *(f"{value:.2f}" for value in values)])
        differences = [time / count - 1 for time, count in zip(per_token, counted, strict=True)]
        rows.append([one.name, "time over operations", *(f"{difference:+.0%}" for difference in differences)])
    explained = f"Relative to {names[0]}, {measured[0].settings['dtype']}; this library."
    return f"{explained}\n\n{_table(('what', 'of which', *names), rows)}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _or_nothing(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
