"""Masked accuracy on a held-out set with fixed masks.

Masks are drawn on whole documents before these are cut to a context length, so the same tokens are predicted at every
context length. All chosen tokens are replaced by the mask: a token that is kept could be predicted by copying it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from .corpus import TokenizedCorpus
from .masking import IGNORED, Masking, sample_keys
from .packing import pack

# Approximate number of tokens per batch of rows.
_TOKENS_PER_BATCH = 4096
# Masked positions per chunk of float32 logits: 100 MB with a vocabulary of 100,000.
_CHUNK = 256


@dataclass(frozen=True)
class MaskedAccuracy:
    """Result of a validation.

    Attributes:
        accuracy: share of the masked tokens that are predicted correctly, from 0 to 1.
        loss: mean cross-entropy of the masked tokens, in nats.
        masked_tokens: number of masked tokens.
    """

    accuracy: float
    loss: float
    masked_tokens: int


class MaskedValidation:
    """A held-out set with fixed masks.

    Args:
        corpus: the held-out documents.
        masking: the vocabulary and the masking probability.
        cls_token_id: id before every piece.
        sep_token_id: id after every piece.
        seed: seed of the masks, independent of the seed of the run.

    Raises:
        ValueError: the text is too short to mask a token.
    """

    def __init__(
        self, corpus: TokenizedCorpus, masking: Masking, cls_token_id: int, sep_token_id: int, seed: int = 0
    ) -> None:
        only_masks = replace(masking, mask_share=1.0, random_share=0.0)
        keys = sample_keys(seed, np.arange(len(corpus))[:, None])
        inputs, self.labels = only_masks(corpus.ids, np.diff(corpus.offsets), keys)
        self.corpus = TokenizedCorpus(inputs.astype(np.int32), corpus.offsets)
        self.cls_token_id, self.sep_token_id = cls_token_id, sep_token_id
        if not len(self.targets):
            raise ValueError(
                f"the held-out text of {len(corpus.ids)} tokens is too short to mask any of it. Add text."
            )

    @property
    def targets(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """`(masked tokens,)` int64, the tokens to predict."""
        return self.labels[self.labels != IGNORED]

    @property
    def baseline_accuracy(self) -> float:
        """The best accuracy of a constant prediction."""
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
        """Measures a model at a context length; with several ranks, all must call it.

        Args:
            model: a masked language model that takes packed input and `logits_positions`.
            sequence_length: context length in tokens, special tokens included.
            rank: rank of this process.
            ranks: number of ranks.
            add: sums a list of numbers over the ranks.
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
                # Sharded models need all ranks in every forward pass: a rank without a batch repeats the last one.
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
                for chunk, true in zip(logits.split(_CHUNK), targets[positions].split(_CHUNK), strict=True):
                    right += int((chunk.argmax(-1) == true).sum())
                    loss += float(nn.functional.cross_entropy(chunk.float(), true, reduction="sum"))
                    count += len(true)
        finally:
            model.train(was_training)
        right_of_all, loss_of_all, count_of_all = add([float(right), loss, float(count)])
        return MaskedAccuracy(right_of_all / count_of_all, loss_of_all / count_of_all, int(count_of_all))


def unigram_baseline(
    training_ids: np.ndarray[Any, np.dtype[Any]], targets: np.ndarray[Any, np.dtype[Any]]
) -> tuple[float, int]:
    """Accuracy of always predicting the most frequent token of the training text.

    Args:
        training_ids: `(tokens,)` ids of the training text, at least one.
        targets: `(masked tokens,)` tokens to predict.

    Returns:
        The accuracy, and the id of the most frequent token.
    """
    most_frequent = int(np.bincount(training_ids).argmax())
    return float(np.mean(targets == most_frequent)), most_frequent
