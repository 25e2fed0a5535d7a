"""Predictions of several models for the same gap, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.inference.fill_mask import fill_masks

if TYPE_CHECKING:
    from rich.console import Console

    from ..encoders.models import EvaluatedModel


def side_by_side(instances: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A Markdown table of the first answers to fill-mask prompts.

    Args:
        instances: for each model, the instances of the task `fill-mask`.
    """
    models = list(instances)
    lines = ["Correct answers are bold.", "", _line(["prompt", "answers", *models])]
    lines.append(_line(["---"] * (2 + len(models))))
    for row in zip(*instances.values(), strict=True):
        text = row[0]["text"]
        shown = text if len(text) <= 80 else f"…{text[-80:]}"
        cells = [f"**{item['top'][0]}**" if item["rank"] == 1 else str(item["top"][0]) for item in row]
        lines.append(_line([shown, " / ".join(row[0]["answers"]), *cells]))
    return "\n".join([*lines, ""])


def show_texts(models: Sequence[EvaluatedModel], texts: Sequence[str], console: Console) -> None:
    """Prints the most probable tokens of each model for each gap of the texts, one table per gap.

    Raises:
        UsageError: as for `fill_masks`.
    """
    from rich.table import Table
    from rich.text import Text

    filled = [fill_masks(model.masked_lm, model.tokenizer, texts) for model in models]
    for number, text in enumerate(texts):
        for gap, masks in enumerate(zip(*(result[number].masks for result in filled), strict=True), start=1):
            title = text if len(filled[0][number].masks) == 1 else f"{text} – gap {gap}"
            table = Table("model", *(str(place) for place in range(1, len(masks[0]) + 1)), title=Text(title), box=None)
            for model, candidates in zip(models, masks, strict=True):
                cells = (Text(f"{candidate.text} {candidate.probability:.0%}") for candidate in candidates)
                table.add_row(Text(model.label), *cells)
            console.print(table)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
