"""Prints the predictions of several models for the gaps of any text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_jp_modernbert.inference.fill_mask import FilledText, fill_masks

from .failures import Failures

if TYPE_CHECKING:
    from rich.console import Console

    from ..encoders.models import EvaluatedModel


def show_texts(models: Sequence[EvaluatedModel], texts: Sequence[str], console: Console) -> Failures:
    """Prints the most probable tokens of each model for each gap of the texts, one table per gap.

    Returns:
        The errors of models and texts without a prediction.
    """
    from rich.table import Table
    from rich.text import Text

    filled: list[dict[str, FilledText]] = [{} for _ in texts]
    failures = Failures()
    for model in models:
        try:
            loaded = model.masked_lm, model.tokenizer
        except Exception as error:
            failures.add(model.label, error)
            continue
        for number, (text, by_model) in enumerate(zip(texts, filled, strict=True), start=1):
            problems: dict[int, Exception] = {}
            try:
                for result in fill_masks(*loaded, [text], problems=problems.__setitem__):
                    by_model[model.label] = result
            except Exception as error:
                problems[0] = error
            for problem in problems.values():
                failures.add(f"text {number} of {model.label}", problem)
    for text, by_model in zip(texts, filled, strict=True):
        gaps = list(zip(*(result.masks for result in by_model.values()), strict=True))
        for gap, masks in enumerate(gaps, start=1):
            title = text if len(gaps) == 1 else f"{text} – gap {gap}"
            table = Table("model", *(str(place) for place in range(1, len(masks[0]) + 1)), title=Text(title), box=None)
            for label, candidates in zip(by_model, masks, strict=True):
                cells = (Text(f"{candidate.text} {candidate.probability:.0%}") for candidate in candidates)
                table.add_row(Text(label), *cells)
            console.print(table)
    return failures
