"""The README's tables on the cost of a training step: counts before and after the changes for GPUs, and estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .measure import COMPILED, OURS
from .recorder import OTHER
from .report import markdown_table
from .roofline import COLUMNS, MFU, RATE, assumptions, estimates, read_counts, waits

BEGIN, END = "<!-- counted: python -m benchmarks readme -->", "<!-- end of counts -->"

_SHAPES = ("base", "small")
_CANDIDATES = {"not compiled": OURS, "compiled": COMPILED}
_STATES = ("before", "after")
_SHOWN = "H100, 1,024"

# Value and format of each figure in a file of step-cost.
_FIGURES: dict[str, tuple[Callable[[Mapping[str, Any]], float | None], str]] = {
    "kernels per micro-batch": (lambda cost: sum(cost["kernels per micro-batch"].values()), ",.0f"),
    "kernels per layer": (lambda cost: sum(cost["kernels per layer"].values()), ",.0f"),
    "KB per token": (lambda cost: sum(cost["bytes per token"].values()) / 1000, ",.0f"),
    "KB per token and layer": (lambda cost: sum(cost["bytes per token and layer"].values()) / 1000, ",.1f"),
    "… without matrix products and attention": (lambda cost: cost["bytes per token and layer"][OTHER] / 1000, ",.1f"),
    "activation KB per token": (lambda cost: cost["activation bytes per token"] / 1000, ",.1f"),
    "synchronizations per micro-batch": (lambda cost: waits(cost, "micro-batch"), ",.0f"),
    "synchronizations per optimizer step": (lambda cost: waits(cost, "optimizer step"), ",.0f"),
    "host ms per micro-batch": (lambda cost: cost["host ms per micro-batch"], ",.1f"),
    "graphs": (lambda cost: cost.get("graphs"), ",.0f"),
    "graph breaks": (lambda cost: cost.get("graph breaks"), ",.0f"),
    "recompilations in 20 batches": (lambda cost: cost.get("recompilations in 20 batches"), ",.0f"),
}


def counted_part(folder: Path) -> str:
    """The tables in Markdown, from the files of step-cost in a folder."""
    counts = {shape: {state: read_counts(folder / f"{state}-{shape}.json") for state in _STATES} for shape in _SHAPES}
    after = counts[_SHAPES[0]]["after"]
    settings, machine, versions = after["settings"], after["machine"], after["versions"]
    parts = [
        f"A micro-batch has {settings['tokens']:,} tokens in {settings['documents']} documents of at most "
        f"{settings['longest document']:,} tokens; {settings['predicted']:,} are predicted. Host: "
        f"{machine['processor']}, torch {versions['torch']}, transformers {versions['transformers']}."
    ]
    for shape, files in counts.items():
        columns = [(name, state) for name in _CANDIDATES for state in _STATES]
        costs = [files[state]["costs"][_CANDIDATES[name]] for name, state in columns]
        values = {figure: [value(cost) for cost in costs] for figure, (value, _) in _FIGURES.items()}
        rows = [
            [figure, *("" if number is None else format(number, _FIGURES[figure][1]) for number in numbers)]
            for figure, numbers in values.items()
        ]
        parts.append(markdown_table((f"`{shape}`", *(f"{name}, {state}" for name, state in columns)), rows))
    parts.append(
        "**Estimates of the roofline model below, not measurements**: model FLOPs utilization (MFU) of one GPU "
        "with documents up to 1,024 and 8,192 tokens, and tokens/s. Each line keeps the changes of those above it; "
        "FlashAttention-3 and kernels fused by hand are not the defaults of the recipes."
    )
    for shape, files in counts.items():
        changes = estimates(files["before"], files["after"], assumptions())
        rows = [
            [change, *(f"{columns[column][MFU]:.1%}" for column in COLUMNS), f"{columns[_SHOWN][RATE]:,.0f}"]
            for change, columns in changes.items()
        ]
        parts.append(markdown_table((f"`{shape}`, estimated MFU", *COLUMNS, f"tokens/s, {_SHOWN}"), rows))
    return "\n\n".join(parts)
