"""The interface of backends: a runner computes the outputs of one packed batch."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Runner(Protocol):
    """Computes the outputs of a model for one packed batch of documents."""

    def run(
        self, input_ids: np.ndarray, cu_seqlens: np.ndarray, positions: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Computes one batch.

        Args:
            input_ids: int64 `(total_tokens,)`, the documents one after the other, none of them empty.
            cu_seqlens: int64 `(documents + 1,)`, the document boundaries.
            positions: int64 `(selected,)`, the rows for which a masked language model computes logits.

        Returns:
            float32 outputs by name. Encoder: `last_hidden_state` `(total_tokens, hidden)`. Masked language model:
            `logits` `(selected, vocabulary)` if there are positions, else `last_hidden_state`. Sequence classification
            and multiple choice: `logits` `(documents, labels)`. Token classification: `logits` `(total_tokens,
            labels)`. Question answering: `start_logits` and `end_logits` `(total_tokens,)`. An embedder of
            sentence-transformers with torch: also `sentence_embedding` `(documents, dimensions)`. There may be others.
        """
        ...
