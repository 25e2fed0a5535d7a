"""Initialize token embeddings from co-occurrence counts.

A masked language model with random embeddings spends tens of millions of tokens on learning which tokens are similar.
Counting finds this out within a minute, which helps small models on small corpora. The embedding of a token is a
factor of its positive pointwise mutual information with frequent tokens one and two positions before and after it, and
the bias of the vocabulary head is the logarithm of the token frequencies. See Levy, Goldberg and Dagan (2015),
"Improving Distributional Similarity with Lessons Learned from Word Embeddings".
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

# Tokens to count. More change little, and each needs 70 bytes of memory.
_TOKENS = 60_000_000
_OFFSETS = (-2, -1, 1, 2)
# Number of most frequent tokens that count as neighbours, and the exponent that smooths their frequencies.
_NEIGHBOURS = 4096
_SMOOTHING = 0.75
# Extra columns and iterations for the accuracy of the randomized decomposition.
_SPARE_COLUMNS, _ROUNDS = 16, 2


def read_for_counting(maker: BlockMaker, tokens: int = _TOKENS) -> TokenizedCorpus:
    """Reads the first documents of a run, each at most once.

    Args:
        maker: makes the blocks of the run.
        tokens: number of tokens to read. Reading also ends before the first block that holds only repeated documents.

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
    """Initializes the token embeddings and the bias of the vocabulary head in place.

    The embeddings keep their standard deviation. Tokens that do not occur, such as special tokens, keep their random
    embeddings.

    Args:
        model: a new model.
        corpus: documents with ids of the model's vocabulary.
    """
    weight = model.get_input_embeddings().weight
    factors = association_factors(corpus, *weight.shape)
    seen = torch.from_numpy(np.bincount(corpus.ids, minlength=len(weight)) > 0)
    if factors.any():
        weight[seen] = factors[seen] * (weight.std() / factors[seen].std())
    bias = model.get_output_embeddings().bias
    if bias is not None:
        logarithms = torch.log(torch.from_numpy(np.bincount(corpus.ids, minlength=len(bias))) + 0.5)
        bias.copy_(logarithms - logarithms.mean())


def association_factors(corpus: TokenizedCorpus, vocab_size: int, width: int) -> torch.Tensor:
    """Factorizes the associations of tokens and neighbours: U √S of the truncated SVD U S Vᵀ, rotated at random.

    The rotation, drawn from torch's generator, gives all columns the same distribution, as in random embeddings, and
    preserves the angles between rows.

    Columns beyond the rank of the associations are 0 before the rotation.

    Returns:
        `(vocab_size, width)` float32 with columns of mean 0; the rows of all tokens that do not occur are equal.
    """
    matrix = associations(corpus, vocab_size)
    rank = min(width, *matrix.shape)
    with warnings.catch_warnings():
        # The decomposition is twice as fast with sparse rows, which torch calls a beta feature.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        columns = min(rank + _SPARE_COLUMNS, *matrix.shape)
        left, values, _ = torch.svd_lowrank(matrix.to_sparse_csr(), q=columns, niter=_ROUNDS)
    factors = torch.zeros(vocab_size, width)
    factors[:, :rank] = left[:, :rank] * values[:rank].sqrt()
    factors -= factors.mean(0)
    return factors @ torch.nn.init.orthogonal_(torch.empty(width, width))


def associations(corpus: TokenizedCorpus, vocab_size: int) -> torch.Tensor:
    """Positive pointwise mutual information of tokens with their neighbours in the same document.

    For a token w with a neighbour c at some distance, counted n times, the value is max(0, log(n / (n(w) p(c)))) times
    n / (n + 1), which discounts rare pairs. n(w) is the number of counted neighbours of w at that distance, and p(c)
    is proportional to n(c)^0.75.

    Returns:
        Sparse `(vocab_size, 4 · neighbours)` float32: neighbours two and one positions before, one and two after.
    """
    # Two entries of -1 between documents, so that tokens of different documents are not neighbours.
    ids = np.insert(corpus.ids.astype(np.int64), np.repeat(corpus.offsets[1:-1], _OFFSETS[-1]), -1)
    counts = np.bincount(corpus.ids, minlength=vocab_size)
    neighbours = min(_NEIGHBOURS, vocab_size)
    rank = np.argsort(np.argsort(-counts, kind="stable"))
    # The entry for the -1 between documents.
    rank = np.append(rank, neighbours)
    indices, values = [], []
    for number, offset in enumerate(_OFFSETS):
        tokens, context = (ids[-offset:], ids[:offset]) if offset < 0 else (ids[:-offset], ids[offset:])
        context = rank[context]
        kept = (tokens >= 0) & (context < neighbours)
        pairs, times = np.unique(tokens[kept] * neighbours + context[kept], return_counts=True)
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
