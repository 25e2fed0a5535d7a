"""Terminal output of the quickstart."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from llm_jp_modernbert.training.data.validation import MaskedAccuracy

_HEADINGS = 6
_BLOCKS = "▁▂▃▄▅▆▇█"
_MAX_BLOCKS = 40


def heading(console: Console, number: int, title: str) -> None:
    """Prints the heading of a step."""
    console.print(f"\n[bold cyan]{number}/{_HEADINGS}[/] [bold]{title}[/]", highlight=False)


def line(console: Console, text: str) -> None:
    """Prints an indented line or paragraph."""
    console.print(Padding(Text(text), (0, 0, 0, 2), expand=False))


def losses(console: Console, values: Sequence[float]) -> None:
    """Prints training losses as a line of blocks; does nothing for fewer than two."""
    if len(values) < 2:
        return
    width = min(_MAX_BLOCKS, len(values))
    groups = [values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)]
    means = [sum(group) / len(group) for group in groups]
    low, high = min(means), max(means)
    blocks = "".join(_BLOCKS[round((mean - low) / (high - low or 1) * (len(_BLOCKS) - 1))] for mean in means)
    console.print(f"  Training loss: {means[0]:.2f} [green]{blocks}[/] {means[-1]:.2f}", highlight=False)


def accuracy(
    console: Console,
    measured: Mapping[str, Mapping[int, MaskedAccuracy]],
    baseline: float,
    most_frequent: str,
    progress: float,
) -> None:
    """Prints a table of masked accuracy on the held-out text.

    Args:
        console: the console.
        measured: results by time of measurement and context length.
        baseline: accuracy of always predicting the most frequent token.
        most_frequent: that token.
        progress: share of the planned steps that fitted into the time limit.
    """
    results = list(measured.values())
    masks = next(iter(results[0].values())).masked_tokens
    table = Table(title=f"Masked accuracy on held-out text ({masks:,} masks)", title_justify="left")
    table.add_column("Model")
    for length in results[0]:
        table.add_column(f"context {length:,}", justify="right")
    table.add_row(f"always {most_frequent!r} (baseline)", *[f"{baseline:.1%}"] * len(results[0]), style="dim")
    for name, by_length in measured.items():
        table.add_row(name, *(f"{result.accuracy:.1%}" for result in by_length.values()))
    console.print()
    console.print(table)
    if max(result.accuracy for result in results[-1].values()) < 1.5 * baseline:
        reason = "Hardly better than the baseline: training was too short."
    elif progress < 0.5:
        reason = f"The time limit ended the training after {progress:.0%} of its steps."
    else:
        return
    console.print(f"  [yellow]{reason}[/] Train longer for a better model: --force --minutes 20.", highlight=False)


def answers(console: Console, questions: Sequence[Mapping[str, Any]], model_class: str) -> None:
    """Prints the questions with the model's answers.

    Args:
        console: the console.
        questions: the questions in the form of the report.
        model_class: class that loaded the model.
    """
    line(console, f"Saved, and loaded in a new process as {model_class}, without this package.")
    table = Table(box=None)
    for column in ("", "Text", "Model's answers", "Correct"):
        table.add_column(column, overflow="fold")
    for question in questions:
        best, *rest = question["candidates"][:3]
        candidates = Text(
            f"{best['text']} {best['probability']:.0%}", style="green" if question["right"] else "yellow"
        )
        for candidate in rest:
            candidates.append(f"  {candidate['text']} {candidate['probability']:.0%}", style="dim")
        table.add_row(
            "✓" if question["right"] else "·",
            # Wrapping could split "[MASK]" in two.
            Text(question["text"].replace("[MASK]", "＿")),
            candidates,
            Text("、".join(question["answers"])),
        )
    console.print(table)
    right = sum(question["right"] for question in questions)
    line(console, f"{right} of {len(questions)} correct. The model was not trained on these sentences.")


def end(console: Console, out: Path, seconds: float, example: str) -> None:
    """Prints what was written, and a command that uses the model."""
    console.print(f"\n[bold green]Done[/] in {seconds / 60:.1f} minutes. Written to {out}:", highlight=False)
    line(console, "model and tokenizer: load them with AutoModelForMaskedLM and AutoTokenizer")
    line(console, "report.json: settings, losses and measurements")
    console.print("\nFill your own masks:", highlight=False)
    command = f"  llm-jp-modernbert fill-mask {shlex.quote(str(out))} {shlex.quote(example)}"
    console.print(Text(command, style="bold"), soft_wrap=True)
