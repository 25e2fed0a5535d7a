"""The probability of each token of a text given the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llm_jp_modernbert.inference.masked_logits import batches, masked_logits

from .models import DemoModel

TOKENS_PER_BATCH = 4096
MIN_PASSES = 8
"""A pass masks one token in eight at most, less than half of what pre-training masks."""


@dataclass(frozen=True)
class Guess:
    """A token of a text as the model sees it when it is masked.

    Attributes:
        log_probability: natural logarithm of the probability of the token itself.
        best: id of the most probable token.
    """

    log_probability: float
    best: int


def passes_for(tokens: int, budget: int) -> int:
    """How often the model reads a text of `tokens` tokens.

    Masking each token alone takes as many passes as tokens, so the cost is quadratic. Where it exceeds the budget,
    each pass masks several tokens at equal distances.

    Args:
        budget: tokens to compute, exceeded only to keep `MIN_PASSES`.
    """
    return min(tokens, max(budget // tokens, MIN_PASSES))


def budget_of(model: DemoModel) -> int:
    """Tokens to compute for one text.

    On two CPU cores, a model of base size takes a minute for 2,048 tokens and fewer, and five minutes for 8,192.
    """
    return 1 << 14 if model.runner.model.device.type == "cpu" else 1 << 20


def guesses(
    model: DemoModel, ids: Sequence[int], places: range, passes: int, progress: Callable[[float], None]
) -> list[Guess]:
    """Predicts each token of a text.

    Args:
        ids: ids with special tokens.
        places: the tokens to predict.
        passes: each pass masks every `passes`-th of them; as many passes as tokens mask each alone.
        progress: called with the completed share.
    """
    import torch

    rows, masked = [], [list(places[first::passes]) for first in range(passes)]
    for positions in masked:
        row = np.array(ids)
        row[positions] = int(model.encoder.tokenizer.mask_token_id)
        rows.append(row.tolist())
    found: dict[int, Guess] = {}
    for batch in batches([len(ids)] * passes, TOKENS_PER_BATCH):
        # Other visitors can use the model between two batches.
        with model.lock:
            computed = masked_logits(
                model.runner.model, [rows[index] for index in batch], [masked[index] for index in batch]
            )
        for index, logits in zip(batch, computed, strict=True):
            labels = torch.tensor([ids[place] for place in masked[index]], device=logits.device)
            losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            for place, loss, best in zip(masked[index], losses.tolist(), logits.argmax(-1).tolist(), strict=True):
                found[place] = Guess(-loss, best)
        progress(len(found) / len(places))
    return [found[place] for place in places]
