"""Batches of real documents for the benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_jp_modernbert.loading import load_tokenizer
from llm_jp_modernbert.training.blocks import BlockMaker, BlockSettings
from llm_jp_modernbert.training.data import sources_of
from llm_jp_modernbert.training.masking import Masking
from llm_jp_modernbert.training.stream import BatchStream


def stream_of(
    files: Sequence[str], tokenizer: str, length: int, rows: int, workers: int = 0, characters: int = 2_000_000
) -> BatchStream:
    """A training run's batches, masked at 30 %.

    Args:
        files: texts, or a tokenised corpus.
        tokenizer: as for a recipe.
        length: tokens of a row.
        rows: rows of a batch.
        workers: of the loader.
        characters: of a block.
    """
    made: Any = load_tokenizer(tokenizer)
    maker = BlockMaker(sources_of(list(files), "text"), BlockSettings(length, characters=characters), made)
    masking = Masking(made.mask_token_id, len(made), made.all_special_ids)
    return BatchStream(maker, masking, lambda step: rows, workers=workers)
