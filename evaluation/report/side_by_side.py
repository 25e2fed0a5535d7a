"""Prints the predictions of several models for the gaps of any text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_jp_modernbert.inference.fill_mask import fill_masks

if TYPE_CHECKING:
    from rich.console import Console

    from ..encoders.models import EvaluatedModel


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
