"""Token embeddings to begin with, from a count of which tokens stand beside which.

A masked language model with random embeddings spends its first tens of millions of tokens on learning which tokens
are alike. Counting finds that out within a minute, so that a small model on a small corpus starts from there: each
token's row is a factor of its associations (positive pointwise mutual information) with common tokens one and two
places before and behind it, and the bias of the vocabulary is the logarithm of the tokens' frequencies.
Levy, Goldberg and Dagan (2015), "Improving Distributional Similarity with Lessons Learned from Word Embeddings".
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from .blocks import BlockMaker
from .corpus import TokenizedCorpus, from_documents

if TYPE_CHECKING:
    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM

# Tokens that are counted: more find little that is new, and each takes 70 bytes meanwhile.
_TOKENS = 60_000_000
_OFFSETS = (-2, -1, 1, 2)
# Neighbours that are told apart, the commonest; and the power that their frequencies are raised to, without which
# rare ones weigh too much.
_NEIGHBOURS = 4096
_SMOOTHING = 0.75
# More columns and rounds bring the factors of the randomised decomposition nearer to the true ones.
_SPARE_COLUMNS, _ROUNDS = 16, 2


def read_for_counting(maker: BlockMaker, tokens: int = _TOKENS) -> TokenizedCorpus:
    """The documents that a run reads first, with the weights of its sources, but none that all would repeat.

    Args:
        maker: of the run's blocks.
        tokens: ends after the block that reaches so many, or before one whose documents were all read before.

    Raises:
        SourceError: see `BlockMaker.blocks`.
    """
    documents: list[npt.NDArray[np.int32]] = []
    count = 0
    for block in maker.blocks():
        if block.places[:, 1].all():
            break
        corpus = block.rows.corpus
        documents += (corpus.document(index) for index in range(len(corpus)))
        count += len(corpus.ids)
        if count >= tokens:
            break
    return from_documents(documents)


@torch.no_grad()
def start_from_counts(model: LlmJpModernBertForMaskedLM, corpus: TokenizedCorpus) -> None:
    """Sets the token embeddings and the vocabulary's bias of a new model, in place.

    The embeddings keep their standard deviation; tokens that do not occur, the special ones among them, keep their
    random rows.

    Args:
        model: new, its vocabulary the corpus's.
        corpus: what is counted.
    """
    weight = model.get_input_embeddings().weight
    found = association_factors(corpus, *weight.shape)
    seen = torch.from_numpy(np.bincount(corpus.ids, minlength=len(weight)) > 0)
    if found.any():
        weight[seen] = found[seen] * (weight.std() / found[seen].std())
    bias = model.get_output_embeddings().bias
    if bias is not None:
        bias.copy_(log_frequencies(corpus, len(bias)))


def log_frequencies(corpus: TokenizedCorpus, vocab_size: int) -> torch.Tensor:
    """`(vocab_size,)` float32: logarithms of how often each token occurs, half a time more, about a mean of 0."""
    counts = torch.from_numpy(np.bincount(corpus.ids, minlength=vocab_size))
    logarithms = torch.log(counts + 0.5)
    return (logarithms - logarithms.mean()).float()


def association_factors(corpus: TokenizedCorpus, vocab_size: int, width: int) -> torch.Tensor:
    """Factors of the tokens' associations with their neighbours: U √S of the truncated U S Vᵀ, turned at random.

    Turning makes all columns alike, as in random embeddings; it leaves the angles between rows as they are. The draws
    are torch's.

    Args:
        corpus: what is counted.
        vocab_size: rows.
        width: columns; those beyond the rank of the associations are 0 before turning.

    Returns:
        `(vocab_size, width)` float32, about a mean of 0; rows of tokens that do not occur are all alike.
    """
    matrix = associations(corpus, vocab_size)
    rank = min(width, *matrix.shape)
    with warnings.catch_warnings():
        # Sparse rows are "in beta state"; the decomposition takes twice as long without them.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        columns = min(rank + _SPARE_COLUMNS, *matrix.shape)
        left, values, _ = torch.svd_lowrank(matrix.to_sparse_csr(), q=columns, niter=_ROUNDS)
    factors = torch.zeros(vocab_size, width)
    factors[:, :rank] = left[:, :rank] * values[:rank].sqrt()
    factors -= factors.mean(0)
    return factors @ torch.nn.init.orthogonal_(torch.empty(width, width))


def associations(corpus: TokenizedCorpus, vocab_size: int) -> torch.Tensor:
    """Positive pointwise mutual information of tokens with their neighbours in the same document.

    Of a token w and a neighbour c at some distance, counted n times: log(n / (n(w) p(c))) where that is above 0, n(w)
    being w's counted neighbours there and p(c) the share of c^0.75 among them, times n / (n + 1), since what was seen
    once may be chance.

    Args:
        corpus: what is counted.
        vocab_size: rows.

    Returns:
        Sparse `(vocab_size, 4 · neighbours)` float32: neighbours two and one place before, then one and two behind.
    """
    ids = _with_gaps(corpus)
    counts = np.bincount(corpus.ids, minlength=vocab_size)
    neighbours = min(_NEIGHBOURS, vocab_size)
    rank = np.argsort(np.argsort(-counts, kind="stable"))
    # A gap's -1 would be the last token.
    rank = np.append(rank, neighbours)
    indices, values = [], []
    for number, offset in enumerate(_OFFSETS):
        tokens, others = (ids[-offset:], ids[:offset]) if offset < 0 else (ids[:-offset], ids[offset:])
        others = rank[others]
        kept = (tokens >= 0) & (others < neighbours)
        pairs, times = np.unique(tokens[kept] * neighbours + others[kept], return_counts=True)
        rows, columns = np.divmod(pairs, neighbours)
        of_token = np.bincount(rows, times, vocab_size)
        share = np.bincount(columns, times, neighbours) ** _SMOOTHING
        share /= max(share.sum(), 1.0)
        information = np.log(times / (of_token[rows] * share[columns])).clip(0) * times / (times + 1)
        indices.append(np.stack([rows, columns + number * neighbours]))
        values.append(information)
    return torch.sparse_coo_tensor(
        torch.from_numpy(np.concatenate(indices, 1)),
        torch.from_numpy(np.concatenate(values)).float(),
        (vocab_size, len(_OFFSETS) * neighbours),
        check_invariants=True,
    ).coalesce()


def _with_gaps(corpus: TokenizedCorpus) -> npt.NDArray[np.int64]:
    """Ids with two places of -1 between documents, so that no token is beside one of another document."""
    gaps = np.repeat(corpus.offsets[1:-1], _OFFSETS[-1])
    return np.insert(corpus.ids.astype(np.int64), gaps, -1)
