"""Measurements of a masked language model on held-out documents, before and after a training.

Both models see the same windows of the documents. Pseudo-perplexity masks a few tokens of a window, one at a time
(Salazar et al. 2020); masked accuracy masks a share of its tokens together, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jp_modernbert.core.intervals import bootstrap
from llm_jp_modernbert.evaluation.metrics.pseudo_perplexity.pseudo_perplexity import pseudo_perplexity
from llm_jp_modernbert.evaluation.tasks.pseudo_perplexity import Target, cross_entropies
from llm_jp_modernbert.inference.masked_logits import batches, masked_logits
from llm_jp_modernbert.tokenization.spans import special_tokens
from llm_jp_modernbert.training.data.corpus import from_documents
from llm_jp_modernbert.training.data.masking import IGNORED, Masking
from llm_jp_modernbert.training.data.validation import MaskedValidation
from llm_jp_modernbert.training.run.adaptation import Change, Estimate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel

PERPLEXITY, ACCURACY = "pseudo_perplexity", "masked_accuracy"

WINDOW = 128
"""Maximum tokens of context, special tokens included."""
POSITIONS = 4
"""Tokens of a document that are masked one at a time."""
MASKED_SHARE = 0.15
"""Share of the tokens that are masked together."""

# Hardly any text has more characters per token.
_CHARACTERS = 8


@dataclass(frozen=True)
class Scores:
    """Sums by document: `(documents,)` cross-entropy and its number of tokens, correct predictions and theirs."""

    losses: np.ndarray
    tokens: np.ndarray
    right: np.ndarray
    masked: np.ndarray


class Windows:
    """Windows of documents, with the tokens to predict in them.

    Args:
        tokenizer: the tokenizer of all models to measure.
        texts: the documents.
        length: maximum tokens of an input of the models.
        seed: random seed of windows and positions.

    Raises:
        ValueError: the texts are too short to mask any token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int, seed: int) -> None:
        self._before, self._after = special_tokens(tokenizer)
        size = min(WINDOW, length) - len(self._before) - len(self._after)
        drawn = np.random.default_rng(seed)
        rows, places = [], []
        for text in texts:
            # Long documents are not tokenized completely.
            characters = _CHARACTERS * size
            start = int(drawn.integers(max(1, len(text) - characters + 1)))
            part = text[start : start + characters]
            row: list[int] = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"][:size]
            known = [place for place, token in enumerate(row) if token != tokenizer.unk_token_id]
            if known:
                rows.append(row)
                places.append(sorted(drawn.choice(known, min(POSITIONS, len(known)), replace=False).tolist()))
        self._rows, self._places = rows, places
        masking = Masking(tokenizer.mask_token_id, len(tokenizer), tokenizer.all_special_ids, MASKED_SHARE)
        self._masked = MaskedValidation(
            from_documents(rows), masking, tokenizer.cls_token_id, tokenizer.sep_token_id, seed
        )

    def __len__(self) -> int:
        return len(self._rows)

    def measure(self, model: EvaluatedModel, progress: Callable[[float], None] = lambda share: None) -> Scores:
        """Measures a model.

        Args:
            model: the model.
            progress: called with the completed share.
        """
        targets = [
            Target([*self._before, *row, *self._after], place + len(self._before))
            for row, places in zip(self._rows, self._places, strict=True)
            for place in places
        ]
        losses = cross_entropies(model.masked_lm, model.tokenizer, targets, model.tokens_per_batch, progress)
        counts = np.array([len(places) for places in self._places])
        starts = np.cumsum(counts) - counts
        right, masked = self._predict(model)
        return Scores(np.add.reduceat(losses, starts), counts, right, masked)

    def _predict(self, model: EvaluatedModel) -> tuple[np.ndarray, np.ndarray]:
        """`(documents,)` correct predictions and masked tokens."""
        corpus, labels = self._masked.corpus, self._masked.labels
        of_row = [labels[begin:end] for begin, end in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)]
        places = [np.flatnonzero(own != IGNORED) for own in of_row]
        rows = [[*self._before, *corpus.document(row).tolist(), *self._after] for row in range(len(corpus))]
        right = np.zeros(len(rows))
        # Fewer tokens than in other batches: many of them need logits.
        for batch in batches(list(map(len, rows)), max(1, model.tokens_per_batch // 4)):
            positions = [(places[row] + len(self._before)).tolist() for row in batch]
            logits = masked_logits(model.masked_lm, [rows[row] for row in batch], positions)
            for row, predicted in zip(batch, logits, strict=True):
                right[row] = np.sum(predicted.argmax(-1).cpu().numpy() == of_row[row][places[row]])
        return right, np.array([len(own) for own in places], float)


def compare(before: Scores, after: Scores, seed: int) -> dict[str, Change]:
    """Both metrics of two models on the same windows, with intervals by bootstrap over documents.

    Args:
        before: scores of the base.
        after: scores of the adapted model.
        seed: random seed of the intervals.
    """

    def accuracy(right: Any, masked: Any, axis: int = -1) -> Any:
        return np.sum(right, axis=axis) / np.maximum(1, np.sum(masked, axis=axis))

    def ratio(first: Any, second: Any, counts: Any, axis: int = -1) -> Any:
        return pseudo_perplexity(second - first, counts, axis)

    def difference(first: Any, second: Any, masked: Any, axis: int = -1) -> Any:
        return accuracy(second - first, masked, axis)

    def estimate(statistic: Callable[..., Any], *samples: np.ndarray) -> Estimate:
        low, high = bootstrap(samples, statistic, seed)
        return {"value": float(statistic(*samples)), "low": low, "high": high}

    return {
        PERPLEXITY: {
            "before": estimate(pseudo_perplexity, before.losses, before.tokens),
            "after": estimate(pseudo_perplexity, after.losses, after.tokens),
            "change": estimate(ratio, before.losses, after.losses, before.tokens),
        },
        ACCURACY: {
            "before": estimate(accuracy, before.right, before.masked),
            "after": estimate(accuracy, after.right, after.masked),
            "change": estimate(difference, before.right, after.right, before.masked),
        },
    }
