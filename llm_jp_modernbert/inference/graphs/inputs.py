"""Inputs of a packed graph: the indices and masks of attention over a packed row of documents.

A graph gathers queries and keys into rows, attends within each row, and gathers the outputs back into the packed row.
Which tokens form a row is decided here, with NumPy, so one graph serves any number and length of documents:

* Global layers have one row per document, padded to the longest. Batches of similar lengths waste nothing.
* Local layers have blocks of the packed row: `BLOCK` queries with the keys of half a block on either side, which costs
  O(tokens · window). Where fewer scores result, for example for short documents, they have a row per document too.
"""

from __future__ import annotations

import numpy as np

BLOCK = 128
"""Smallest number of queries in a block of local attention."""

MASKED = -1e9
"""Added to the scores of tokens that are not attended to. Finite, so that no row of scores is without a maximum."""

INPUTS = (
    "input_ids",
    "positions",
    "local_queries",
    "local_keys",
    "local_mask",
    "local_outputs",
    "global_tokens",
    "global_mask",
    "global_outputs",
    "documents",
)
"""Names of the inputs of every graph, in their order."""

LOGITS_POSITIONS = "logits_positions"
"""Name of the additional input of a masked language model."""


def graph_inputs(input_ids: np.ndarray, cu_seqlens: np.ndarray, window: int) -> dict[str, np.ndarray]:
    """The inputs of a packed graph for a packed row of documents.

    Args:
        input_ids: int64 `(total_tokens,)`, the documents one after the other.
        cu_seqlens: int `(documents + 1,)`, document boundaries; no document may be empty.
        window: a token of a local layer attends to this many tokens on either side.

    Returns:
        Arrays by the names of `INPUTS`. `*_queries`, `*_keys` and `global_tokens` are int64 `(rows, tokens per row)`
        indices into the packed row; `*_outputs` are int64 `(total_tokens,)` indices into the flattened rows of
        queries; `local_mask` is float32 `(rows, 1, queries, keys)` and `global_mask` `(documents, 1, 1, longest)`.
        `positions` are the distances from the first token of a document, and `documents` the document numbers.

    Example:
        >>> graph_inputs(np.array([1, 5, 2, 1, 6, 7, 2]), np.array([0, 3, 7]), window=64)["global_tokens"]
        array([[0, 1, 2, 2],
               [3, 4, 5, 6]])
    """
    starts, lengths = cu_seqlens[:-1].astype(np.int64), np.diff(cu_seqlens).astype(np.int64)
    longest, total = int(lengths.max()), len(input_ids)
    documents = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.arange(total) - starts[documents]
    columns = np.arange(longest)
    is_token = columns < lengths[:, None]
    # Padding repeats the last token of the document.
    tokens = starts[:, None] + np.minimum(columns, lengths[:, None] - 1)
    rows = documents * longest + positions
    block = max(BLOCK, -(-2 * window // BLOCK) * BLOCK)
    blocks = -(-total // block)
    if len(lengths) * longest**2 <= blocks * 2 * block**2:
        queries = keys = tokens
        allowed = is_token[:, None, :]
        if longest > window + 1:
            allowed = allowed & (np.abs(columns[:, None] - columns) <= window)
        else:
            allowed = np.broadcast_to(allowed, (len(lengths), longest, longest))
        outputs = rows
    else:
        queries, keys, allowed = _blocks(documents, block, window)
        outputs = np.arange(total)
    return {
        "input_ids": np.ascontiguousarray(input_ids, dtype=np.int64),
        "positions": positions,
        "local_queries": queries,
        "local_keys": keys,
        "local_mask": _mask(allowed[:, None]),
        "local_outputs": outputs,
        "global_tokens": tokens,
        "global_mask": _mask(is_token[:, None, None]),
        "global_outputs": rows,
        "documents": documents,
    }


def _blocks(documents: np.ndarray, block: int, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of queries `(blocks, block)` and keys `(blocks, 2 · block)`, and which pairs attend."""
    total = len(documents)
    first = np.arange(0, total, block)[:, None]
    queries, keys = first + np.arange(block), first + np.arange(-block // 2, block + block // 2)
    exists = (keys >= 0) & (keys < total)
    distances = np.arange(block)[:, None] - np.arange(-block // 2, block + block // 2)
    queries, keys = np.minimum(queries, total - 1), keys.clip(0, total - 1)
    allowed = (documents[queries][:, :, None] == documents[keys][:, None, :]) & exists[:, None, :]
    allowed &= np.abs(distances) <= window
    return queries, keys, allowed


def _mask(allowed: np.ndarray) -> np.ndarray:
    return np.where(allowed, np.float32(0), np.float32(MASKED))
