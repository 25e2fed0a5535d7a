"""Prints the predictions of several models for the gaps of any text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_jp_modernbert.inference.fill_mask import fill_masks

from .failures import Failures

if TYPE_CHECKING:
    from rich.console import Console

    from ..encoders.models import EvaluatedModel


def show_texts(models: Sequence[EvaluatedModel], texts: Sequence[str], console: Console) -> Failures:
    """Prints the most probable tokens of each model for each gap of the texts, one table per gap.

    Returns:
        The errors of models that cannot fill the gaps.
    """
    from rich.table import Table
    from rich.text import Text

    filled, failures = {}, Failures()
    for model in models:
        try:
            filled[model.label] = fill_masks(model.masked_lm, model.tokenizer, texts)
        except Exception as error:
            failures.add(model.label, error)
    if not filled:
        return failures
    for number, text in enumerate(texts):
        of_models = [result[number].masks for result in filled.values()]
        for gap, masks in enumerate(zip(*of_models, strict=True), start=1):
            title = text if len(of_models[0]) == 1 else f"{text} – gap {gap}"
            table = Table("model", *(str(place) for place in range(1, len(masks[0]) + 1)), title=Text(title), box=None)
            for label, candidates in zip(filled, masks, strict=True):
                cells = (Text(f"{candidate.text} {candidate.probability:.0%}") for candidate in candidates)
                table.add_row(Text(label), *cells)
            console.print(table)
    return failures
