"""How equal the work of ranks is in the steps of stage 2, simulated with documents of log-normal lengths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig
from llm_jp_modernbert.modeling.flops import forward_flops
from llm_jp_modernbert.training.data.packing import balanced_order, best_fit, cut
from llm_jp_modernbert.training.recipe.arguments import SPECIAL_TOKENS_PER_PIECE

# From the recipe `stage2`. A block of 32 million characters has about 16 million tokens.
_ROW, _ROWS_PER_STEP, _BLOCK_TOKENS, _PREDICTED = 8192, 384, 16_000_000, 0.3
_BLOCKS_PER_RANK = 2
# Half of the documents are longer than 490 tokens, a tenth than 2,400.
_MU, _SIGMA, _LONGEST = 6.2, 1.25, 200_000


@dataclass(frozen=True)
class Slowest:
    """Work of the rank with the most work in a step, relative to the mean over the ranks; a mean over steps.

    Attributes:
        pairs: attention pairs of a global layer.
        operations: floating-point operations of the base model.
    """

    pairs: float
    operations: float


def slowest_rank(ranks: int, block_tokens: int = _BLOCK_TOKENS) -> tuple[Slowest, Slowest]:
    """The work of the slowest rank with rows in random order and with `balance_attention`.

    Args:
        ranks: number of ranks, each of which takes the rows of its own blocks.
        block_tokens: tokens of a block.
    """
    draw = np.random.default_rng(0)
    window = _ROWS_PER_STEP // ranks
    work: dict[bool, list[npt.NDArray[np.float64]]] = {False: [], True: []}
    for _ in range(ranks):
        rows: dict[bool, list[npt.NDArray[np.int64]]] = {False: [], True: []}
        for _ in range(_BLOCKS_PER_RANK):
            block = _block(draw, block_tokens)
            order = draw.permutation(len(block))
            pairs = np.array([int((lengths**2).sum()) for lengths in block])
            rows[True] += [block[row] for row in balanced_order(order, pairs, window, len(rows[True]))]
            rows[False] += [block[row] for row in order]
        for balanced, lane in rows.items():
            work[balanced].append(_work_of_steps(lane, window))
    return _slowest(work[False]), _slowest(work[True])


def _block(draw: np.random.Generator, tokens: int) -> list[npt.NDArray[np.int64]]:
    """Lengths of the pieces of each packed row."""
    mean = np.exp(_MU + _SIGMA**2 / 2)
    documents = np.minimum(draw.lognormal(_MU, _SIGMA, int(2 * tokens / mean)).astype(np.int64) + 1, _LONGEST)
    documents = documents[np.cumsum(documents) <= tokens]
    _, sizes = cut(np.concatenate([[0], np.cumsum(documents)]), _ROW - SPECIAL_TOKENS_PER_PIECE)
    sizes = sizes + SPECIAL_TOKENS_PER_PIECE
    order, rows = best_fit(sizes, _ROW)
    return np.split(sizes[order], rows[1:-1])


def _work_of_steps(rows: list[npt.NDArray[np.int64]], window: int) -> npt.NDArray[np.float64]:
    """`(steps, 2)` attention pairs and operations of a rank."""
    config = LlmJpModernBertConfig()
    steps = [np.concatenate(rows[row : row + window]) for row in range(0, len(rows) - window + 1, window)]
    return np.array(
        [
            [float((lengths**2).sum()), forward_flops(config, lengths, int(_PREDICTED * lengths.sum()))]
            for lengths in steps
        ]
    )


def _slowest(work: list[npt.NDArray[np.float64]]) -> Slowest:
    steps = min(map(len, work))
    values = np.array([rank[:steps] for rank in work])
    return Slowest(*(values.max(0) / values.mean(0)).mean(0).tolist())
