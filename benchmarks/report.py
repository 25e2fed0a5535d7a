"""The tables and the plot made from a file of results: in the terminal and in benchmarks/README.md."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json, write_whole

from .cases.fill_mask import SAME_FIRST
from .measure import COMPILED, Measurement
from .models import VOCABULARY
from .table import FILE, Goal

PLOT = "table.png"
BEGIN, END = "<!-- measured: python -m benchmarks readme -->", "<!-- end of measurements -->"
README = Path(__file__).with_name("README.md")

_SPEED = ("row", "case", "against", "this library", "compiled", "goal")
_MEMORY = ("extra peak memory", "compiled", "goal")
_PLAIN, _COMPILED, _GOAL, _PEER = "#1f5fa8", "#8db8e2", "#c0392b", "#222222"
_CASE_KEYS = (*(field.name for field in fields(Measurement)), "row", "command", "matrix rate", "goals", "ours")


@dataclass(frozen=True)
class Comparison:
    """This library compared with one candidate of a case, without and with compiled layers; None if not measured."""

    row: int
    measurement: Measurement
    goal: Goal  # names the candidate
    ratios: tuple[float, float | None]  # relative speed
    memory: tuple[float | None, float | None]  # share of the candidate's extra peak memory
    # The ratio at which every counted operation runs at the rate of the machine's fastest matrix product.
    floor: float | None


def read(folder: Path) -> dict[str, Any]:
    """Read the file of results in a folder."""
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{path}: no such file. Run `python -m benchmarks --out {folder}` first.")
    content: Any = read_json(path)
    cases = content.get("cases") if isinstance(content, dict) else None
    if not cases or any(name not in case for case in cases for name in _CASE_KEYS):
        raise UsageError(f"{path} is not a file of results of this version. Measure again with --out {folder}.")
    return content


def measurement_of(case: dict[str, Any]) -> Measurement:
    """The measurement of a case in a file of results."""
    return Measurement(**{field.name: case[field.name] for field in fields(Measurement)})


def comparisons(content: dict[str, Any]) -> list[Comparison]:
    """All comparisons in a file of results, in its order."""
    compared = []
    for case in content["cases"]:
        measurement, ours = measurement_of(case), case["ours"]
        for goal in (Goal(**goal) for goal in case["goals"]):
            against = goal.against
            compiled = measurement.ratio(COMPILED, against) if COMPILED in measurement.rates else None
            floor = None
            if ours in measurement.operations:
                dtype = measurement.settings["dtype"].split()[0]
                # The best rate of all runs: a busy machine may slow the products of one run.
                rate = max(other["matrix rate"][dtype] for other in content["cases"])
                floor = rate / measurement.operations[ours] / measurement.median(against)
            ratios = (measurement.ratio(ours, against), compiled)
            memory = (measurement.memory_share(ours, against), measurement.memory_share(COMPILED, against))
            compared.append(Comparison(case["row"], measurement, goal, ratios, memory, floor))
    return compared


def _by_case(compared: list[Comparison]) -> list[list[Comparison]]:
    """Group the comparisons of each case."""
    return [list(group) for _, group in groupby(compared, key=lambda comparison: comparison.measurement.name)]


def _cells(comparison: Comparison) -> list[str]:
    """The comparison as a line of the table in the README; the terminal shows the first cells."""
    goal, ratios, memory = comparison.goal, comparison.ratios, comparison.memory
    return [
        str(comparison.row),
        comparison.measurement.name,
        goal.against,
        *(_cell("{:.2f} ×", ratio) for ratio in ratios),
        _goal_cell("{:g} ×", goal.ratio, ratios, max),
        _cell("{:.1f} ×", comparison.floor),
        *(_cell("{:.0%}", share) for share in memory),
        _goal_cell("{:.0%}", goal.memory, memory, min),
    ]


def _cell(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)


def _goal_cell(form: str, goal: float | None, values: Sequence[float | None], better: Callable[..., float]) -> str:
    """A goal with a mark that says whether the best of the measured values reaches it; empty without a goal."""
    if goal is None:
        return ""
    known = [value for value in values if value is not None]
    if not known:
        return f"{form.format(goal)} (not measured)"
    return f"{form.format(goal)} {'✓' if better(*known, goal) in known else '✗'}"


def overview(content: dict[str, Any], reference: dict[str, Any] | None = None) -> Table:
    """The comparisons with their goals for a terminal, with the ratios of another file of results if given."""
    known = {(c.measurement.name, c.goal.against): c.ratios[0] for c in comparisons(reference or {"cases": []})}
    compared = comparisons(content)
    is_compiled = any(comparison.ratios[1] is not None for comparison in compared)
    shown = [index for index, title in enumerate(_SPEED) if is_compiled or title != "compiled"]
    titles = [*(_SPEED[index] for index in shown), *(["in the table"] if reference else [])]
    table = Table(*(Column(title, overflow="fold") for title in titles), box=None)
    for comparison in compared:
        cells = _cells(comparison)
        before = known.get((comparison.measurement.name, comparison.goal.against))
        change = [f"{before:.2f} × ({comparison.ratios[0] / before - 1:+.0%})"] if before else []
        table.add_row(*(cells[index] for index in shown), *change)
    return table


def plot(content: dict[str, Any], folder: Path) -> Path | None:
    """Plot the speed of every case relative to the peer, with the goals and the peer's fastest candidate.

    Returns the PNG file in the folder, or None if the file of results contains no comparison.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    compared = comparisons(content)
    groups = _by_case(compared)
    if not groups:
        return None
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for place, group in enumerate(groups):
        (ratio, compiled), goal = group[0].ratios, group[0].goal
        axes.barh(place, compiled or 0, height=0.66, color=_COMPILED)
        axes.barh(place, ratio, height=0.36, color=_PLAIN)
        if goal.ratio is not None:
            axes.plot(goal.ratio, place, marker="D", color=_GOAL, markersize=6)
        fastest_peer = max(group[0].measurement.ratio(other.goal.against, goal.against) for other in group)
        if fastest_peer > 1:
            axes.plot([fastest_peer, fastest_peer], [place - 0.4, place + 0.4], color=_PEER, linewidth=2.5)
        best = max(ratio, compiled or 0)
        end = (max(best, fastest_peer, goal.ratio or 0), place)
        axes.annotate(f"{best:.2f} ×", end, xytext=(8, 0), textcoords="offset points", va="center", fontsize=9)
    axes.axvline(1, color=_PEER, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(groups)), [group[0].measurement.name for group in groups])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.margins(x=0.12)
    axes.set_xlabel("speed relative to the peer with default settings")
    axes.spines[["top", "right"]].set_visible(False)
    machine, shape = content["machine"], content["settings"]["shape"]
    title = "Speed of this library relative to transformers and datasets"
    figure.suptitle(f"{title}\n{machine['name']}, {machine['threads']} threads, {shape} model", fontsize=10)
    is_compiled = any(comparison.ratios[1] for comparison in compared)
    handles = [
        Patch(color=_PLAIN, label="this library"),
        *([Patch(color=_COMPILED, label="this library, compiled")] if is_compiled else []),
        Line2D([], [], color=_PEER, linestyle="--", linewidth=1, label="peer (transformers or datasets), defaults"),
        Line2D([], [], color=_PEER, linewidth=2.5, label="peer, fastest candidate"),
        Line2D([], [], color=_GOAL, marker="D", linestyle="", label="goal"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.1)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / PLOT, image.getvalue())
    return folder / PLOT


def rewrite(content: dict[str, Any], folder: Path, path: Path = README) -> None:
    """Write the tables between the marks of the README; `folder` contains the file of results and its plot."""
    link = Path(os.path.relpath(folder / PLOT, path.parent)).as_posix()
    write_part(measured_part(content, link), BEGIN, END, path)


def write_part(part: str, begin: str, end: str, path: Path) -> None:
    """Write a part of the README between its marks."""
    before, found_begin, rest = path.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise UsageError(f"{path} lacks the marks around the tables: {begin} and {end}.")
    write_whole(path, f"{before}{begin}\n\n{part}\n\n{end}{after}")


def measured_part(content: dict[str, Any], link: str) -> str:
    """The machine, the tables and the plot in Markdown; `link` is the path of the plot."""
    compared = comparisons(content)
    parts = [_conditions(content)]
    if compared:
        parts += [
            f"![Speed relative to the peers]({link})",
            markdown_table((*_SPEED, "floor", *_MEMORY), map(_cells, compared)),
        ]
        parts += ["### Speeds and settings", _candidates(compared)]
    costs = [measurement_of(case) for case in content["cases"] if case["row"] == 8]
    if costs:
        parts += ["### Cost over length", _costs(costs)]
    if content["left out"]:
        parts.append(f"Not measured, for lack of data: rows {', '.join(map(str, content['left out']))}.")
    return "\n\n".join(parts)


def _conditions(content: dict[str, Any]) -> str:
    machine, settings, cases = content["machine"], content["settings"], content["cases"]
    rates = []
    for dtype in content["matrix rate"]:
        values = [case["matrix rate"][dtype] / 1e9 for case in cases]
        low, high = f"{min(values):,.0f}", f"{max(values):,.0f}"
        rates.append(f"{low if low == high else f'{low} to {high}'} GFLOP/s in {dtype}")
    libraries = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    memory = f", {machine['memory GB']} GB" if "memory GB" in machine else ""
    gpu = "" if machine["name"] == machine["processor"] else f"{machine['name']} (CUDA {machine.get('CUDA')}); "
    commands = ", ".join(f"`{command}`" for command in dict.fromkeys(case["command"] for case in cases))
    return "\n".join(
        [
            f"* Machine: {gpu}{machine['processor']}, cores: {machine['cores']}{memory}, {machine['system']}; "
            f"{', '.join(machine['instruction sets'])}.",
            f"* Fastest matrix product (threads: {machine['threads']}): {', '.join(rates)}.",
            f"* Versions: {libraries}.",
            f"* Models: shape {settings['shape']}, vocabulary of {VOCABULARY:,}, random weights.",
            f"* Commands: {commands}.",
            f"* Turns: {settings['turns']}; long cases: {settings['long_turns']}. Rates are medians.",
        ]
    )


def _candidates(compared: list[Comparison]) -> str:
    rows, settings = [], []
    for measurement in (group[0].measurement for group in _by_case(compared)):
        for index, name in enumerate(measurement.rates):
            median = measurement.median(name)
            speed = f"{median:,.0f}" if median >= 100 else f"{median:,.1f}"
            memory = _cell("{:,.0f} MB", measurement.extra_peak_megabytes.get(name))
            same = _cell("{:.1%}", measurement.settings.get(SAME_FIRST, {}).get(name))
            title = measurement.name if index == 0 else ""
            rows.append([title, name, f"{speed} {measurement.unit}/s", memory, same])
        listed = ", ".join(f"{key} {value}" for key, value in measurement.settings.items() if key != SAME_FIRST)
        settings.append(f"* {measurement.name}: {listed}.")
    titles = ("case", "candidate", "median", "extra peak memory", SAME_FIRST)
    return markdown_table(titles, rows) + "\n\n" + "\n".join(settings)


def _costs(measurements: Sequence[Measurement]) -> str:
    names = list(measurements[0].rates)
    rows = []
    for measurement in measurements:
        times = [1 / measurement.ratio(name) for name in names]
        counts = [measurement.operations[name] / measurement.operations[names[0]] for name in names]
        for title, values in (("time per token", times), ("operations per token", counts)):
            rows.append([measurement.name, title, *(f"{value:.2f}" for value in values)])
        excess = [f"{time / count - 1:+.0%}" for time, count in zip(times, counts, strict=True)]
        rows.append([measurement.name, "time over operations", *excess])
    conditions = f"Relative to {names[0]}, {measurements[0].settings['dtype']}; this library."
    return f"{conditions}\n\n{markdown_table(('part', 'quantity', *names), rows)}"


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
