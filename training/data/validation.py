"""Masked accuracy on held-out text, with masks that never change.

The masks are drawn on whole documents before these are cut for one context length or another: whatever the context,
the same tokens are predicted, so that what differs is the context alone. Every chosen token is replaced by the mask,
none is kept or exchanged: a kept token would be answered by copying it, which says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .corpus import TokenizedCorpus
from .masking import IGNORED, Masking, sample_keys
from .packing import pack

# Rows are evaluated together up to about this many tokens.
_TOKENS_PER_BATCH = 4096
# Masked positions whose logits exist at one time: with a vocabulary of 100,000 that is 100 MB.
_LOGITS_AT_ONCE = 256


@dataclass(frozen=True)
class MaskedAccuracy:
    """Result of a validation.

    Attributes:
        accuracy: share of the masked tokens that are predicted exactly, from 0 to 1.
        loss: mean cross-entropy of the masked tokens, in nats.
        masked_tokens: how many tokens were masked.
    """

    accuracy: float
    loss: float
    masked_tokens: int


class MaskedValidation:
    """Held-out documents with fixed masks.

    Args:
        corpus: the held-out documents.
        masking: which tokens may be masked, and the share of them that are.
        cls_token_id: id before every piece.
        sep_token_id: id after every piece.
        seed: seed of the masks; of its own, so that another run is measured by the same masks.

    Raises:
        ValueError: no token is masked, since there are too few.
    """

    def __init__(
        self, corpus: TokenizedCorpus, masking: Masking, cls_token_id: int, sep_token_id: int, seed: int = 0
    ) -> None:
        all_masks = Masking(
            masking.mask_token_id,
            masking.vocab_size,
            masking.special_ids,
            masking.probability,
            mask_share=1.0,
            random_share=0.0,
        )
        keys = sample_keys(seed, np.arange(len(corpus))[:, None])
        inputs, self.labels = all_masks(corpus.ids, np.diff(corpus.offsets), keys)
        self.corpus = TokenizedCorpus(inputs.astype(np.int32), corpus.offsets)
        self.cls_token_id, self.sep_token_id = cls_token_id, sep_token_id
        if not len(self.targets):
            raise ValueError(
                f"the held-out text of {len(corpus.ids)} tokens is too short to mask any of it. Give more text."
            )

    @property
    def targets(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """`(masked tokens,)` int64, the tokens to predict."""
        return self.labels[self.labels != IGNORED]

    @property
    def baseline_accuracy(self) -> float:
        """The best accuracy that one and the same answer for every mask can reach."""
        return float(np.bincount(self.targets).max()) / len(self.targets)

    @torch.no_grad()
    def measure(
        self,
        model: nn.Module,
        sequence_length: int,
        rank: int = 0,
        ranks: int = 1,
        add: Callable[[list[float]], list[float]] = list,
    ) -> MaskedAccuracy:
        """Measures a model that reads `sequence_length` tokens at once.

        Args:
            model: a masked language model that takes packed input and `logits_positions`.
            sequence_length: context length in tokens, special tokens included.
            rank: which of the processes this one is, all of which measure at the same time.
            ranks: how many there are.
            add: sums numbers over the ranks.
        """
        rows = pack(self.corpus, sequence_length, self.cls_token_id, self.sep_token_id)
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        right, loss, count = 0, 0.0, 0
        together = max(1, _TOKENS_PER_BATCH // sequence_length)
        batches = [range(first, min(first + together, len(rows))) for first in range(0, len(rows), together)]
        try:
            for turn in range(-(-len(batches) // ranks)):
                # A sharded model computes on all ranks at once: one without a batch left does the last again.
                mine = turn * ranks + rank
                batch = batches[min(mine, len(batches) - 1)]
                ids, lengths = zip(*(rows.row(row) for row in batch), strict=True)
                labels = [rows.gather(row, self.labels, IGNORED, IGNORED)[0] for row in batch]
                input_ids = torch.from_numpy(np.concatenate(ids)).to(device)
                targets = torch.from_numpy(np.concatenate(labels)).to(device)
                cu_seqlens = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
                positions = targets != IGNORED
                logits = model(
                    input_ids=input_ids[None],
                    cu_seqlens=torch.from_numpy(cu_seqlens.astype(np.int32)).to(device),
                    logits_positions=positions[None],
                ).logits
                if mine >= len(batches):
                    break
                for some, true in zip(
                    logits.split(_LOGITS_AT_ONCE), targets[positions].split(_LOGITS_AT_ONCE), strict=True
                ):
                    right += int((some.argmax(-1) == true).sum())
                    loss += float(nn.functional.cross_entropy(some.float(), true, reduction="sum"))
                    count += len(true)
        finally:
            model.train(was_training)
        right_of_all, loss_of_all, count_of_all = add([float(right), loss, float(count)])
        return MaskedAccuracy(right_of_all / count_of_all, loss_of_all / count_of_all, int(count_of_all))


def unigram_baseline(
    training_ids: np.ndarray[Any, np.dtype[Any]], targets: np.ndarray[Any, np.dtype[Any]]
) -> tuple[float, int]:
    """What a model reaches that knows nothing but which token is the most frequent.

    Args:
        training_ids: `(tokens,)` of the training text, at least one.
        targets: `(masked tokens,)`, the tokens to predict.

    Returns:
        The share of the targets that are the training text's most frequent token, and that token's id.
    """
    most_frequent = int(np.bincount(training_ids).argmax())
    return float(np.mean(targets == most_frequent)), most_frequent
