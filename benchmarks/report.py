"""The measured part of benchmarks/README.md and its plot, generated from a file of results."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import write_whole

from .cases.fill_mask import SAME_FIRST
from .measure import Measurement
from .models import VOCABULARY
from .results import Comparison, by_case, cell, comparisons, goal_cell, measurement_of
from .table import TITLES

PLOT = "table.png"
"""Name of the plot in the folder of results."""
BEGIN, END = "<!-- measured: python -m benchmarks readme -->", "<!-- end of measurements -->"
README = Path(__file__).with_name("README.md")

_PLAIN, _COMPILED, _GOAL, _PEER = "#1f5fa8", "#8db8e2", "#c0392b", "#222222"


def plot(content: dict[str, Any], folder: Path) -> Path | None:
    """Plot the speed of every case relative to the peer, with the goals and the peer's fastest candidate.

    Args:
        content: content of a file of results.
        folder: folder of the plot.

    Returns:
        The PNG file, or None if the file of results contains no comparison.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    compared = comparisons(content)
    groups = by_case(compared)
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
    axes.set_title(f"{machine['name']}, threads: {machine['threads']}; shape {shape}", fontsize=10)
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
    figure.savefig(image, format="png", dpi=120, metadata={"Software": None})
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / PLOT, image.getvalue())
    return folder / PLOT


def rewrite(content: dict[str, Any], folder: Path, path: Path = README) -> None:
    """Write the tables between the marks of the README.

    Args:
        content: content of a file of results.
        folder: folder of the file and its plot.
        path: the README.

    Raises:
        UsageError: the README lacks the marks.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"{path} lacks the marks around the tables: {BEGIN} and {END}.")
    link = Path(os.path.relpath(folder / PLOT, path.parent)).as_posix()
    write_whole(path, f"{before}{BEGIN}\n\n{measured_part(content, link)}\n\n{END}{after}")


def measured_part(content: dict[str, Any], link: str) -> str:
    """The machine, the tables and the plot in Markdown; `link` is the path of the plot."""
    compared = comparisons(content)
    parts = [_conditions(content)]
    if compared:
        parts += [f"![Speed relative to the peers]({link})", _ratios(compared)]
        parts += ["### Speeds and settings", _candidates(compared)]
    costs = [measurement_of(case) for case in content["cases"] if case["row"] == 8]
    if costs:
        parts += [f"### {TITLES[8]}", _costs(costs)]
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


def _ratios(compared: Sequence[Comparison]) -> str:
    titles = ("row", "case", "against", "this library", "compiled", "goal", "floor")
    rows = [
        [
            str(comparison.row),
            comparison.measurement.name,
            comparison.goal.against,
            *(cell("{:.2f} ×", ratio) for ratio in comparison.ratios),
            goal_cell("{:g} ×", comparison.goal.ratio, comparison.ratios),
            cell("{:.1f} ×", comparison.floor),
            *(cell("{:.0%}", share) for share in comparison.memory),
            goal_cell("{:.0%}", comparison.goal.memory, comparison.memory, better=min),
        ]
        for comparison in compared
    ]
    return _table((*titles, "extra peak memory", "compiled", "goal"), rows)


def _candidates(compared: list[Comparison]) -> str:
    rows, settings = [], []
    for measurement in (group[0].measurement for group in by_case(compared)):
        for index, name in enumerate(measurement.rates):
            median = measurement.median(name)
            speed = f"{median:,.0f}" if median >= 100 else f"{median:,.1f}"
            memory = cell("{:,.0f} MB", measurement.extra_peak_megabytes.get(name))
            same = cell("{:.1%}", measurement.settings.get(SAME_FIRST, {}).get(name))
            title = measurement.name if index == 0 else ""
            rows.append([title, name, f"{speed} {measurement.unit}/s", memory, same])
        listed = ", ".join(f"{key} {value}" for key, value in measurement.settings.items() if key != SAME_FIRST)
        settings.append(f"* {measurement.name}: {listed}.")
    titles = ("case", "candidate", "median", "extra peak memory", SAME_FIRST)
    return _table(titles, rows) + "\n\n" + "\n".join(settings)


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
    return f"{conditions}\n\n{_table(('part', 'quantity', *names), rows)}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
