"""Real data: where it is, and batches of its documents."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.data.blocks import BlockMaker, BlockSettings
from llm_jp_modernbert.training.data.masking import Masking
from llm_jp_modernbert.training.data.sources import sources_of
from llm_jp_modernbert.training.data.stream import BatchStream

DATA_VARIABLE = "LLM_JP_MODERNBERT_TEST_DATA"


@dataclass(frozen=True)
class RealData:
    """A tokenizer and a corpus.

    Attributes:
        tokenizer: a SentencePiece `.model` file.
        corpus: folder of texts.
    """

    tokenizer: str
    corpus: str


def find_data(folder: Path | None) -> RealData | None:
    """The real data of a folder, by default of that which the environment names; None where none is named.

    Args:
        folder: holds `tokenizer/*.model`, of which the first by name is taken, and `corpus/manuals/`.

    Raises:
        UsageError: the folder lacks one of them.
    """
    named = folder or os.environ.get(DATA_VARIABLE)
    if not named:
        return None
    tokenizers, corpus = sorted(Path(named).glob("tokenizer/*.model")), Path(named) / "corpus" / "manuals"
    if not tokenizers or not corpus.is_dir():
        raise UsageError(f"{named} lacks tokenizer/*.model or corpus/manuals/. Name another folder with --data.")
    return RealData(str(tokenizers[0]), str(corpus))


def stream_of(
    files: Sequence[str],
    tokenizer: str,
    length: int,
    rows: int,
    workers: int = 0,
    characters: int = 2_000_000,
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
