"""What several models put into the same gap, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.files import write_whole
from llm_jp_modernbert.inference.fill_mask import fill_masks

if TYPE_CHECKING:
    from rich.console import Console

    from ..encoders.models import EvaluatedModel


def write_side_by_side(path: Path, instances: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """A Markdown table of the likeliest answers to the fill-mask prompts.

    Args:
        path: the file.
        instances: by model what the task `fill-mask` keeps of each prompt.
    """
    models = list(instances)
    lines = [_line(["prompt", "answers", *models]), _line(["---"] * (2 + len(models)))]
    for row in zip(*instances.values(), strict=True):
        text = row[0]["text"]
        shown = text if len(text) <= 80 else f"…{text[-80:]}"
        cells = [f"**{one['top'][0]}**" if one["rank"] == 1 else str(one["top"][0]) for one in row]
        lines.append(_line([shown, " / ".join(row[0]["answers"]), *cells]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "\n".join(["Right answers in bold.", "", *lines, ""]))


def show_texts(models: Sequence[EvaluatedModel], texts: Sequence[str], console: Console) -> None:
    """The likeliest candidates of each model for each gap of texts, a table for each gap.

    Raises:
        UsageError: as `fill_masks`.
    """
    from rich.table import Table
    from rich.text import Text

    filled = [fill_masks(model.masked_lm, model.tokenizer, texts) for model in models]
    for number, text in enumerate(texts):
        for gap, masks in enumerate(zip(*(found[number].masks for found in filled), strict=True), start=1):
            title = text if len(filled[0][number].masks) == 1 else f"{text} – gap {gap}"
            table = Table("model", *(str(place) for place in range(1, len(masks[0]) + 1)), title=Text(title), box=None)
            for model, candidates in zip(models, masks, strict=True):
                table.add_row(Text(model.label), *(Text(f"{one.text} {one.probability:.0%}") for one in candidates))
            console.print(table)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
