"""Tokenising a corpus: this library's encoder against the fast tokenizer, alone and in `datasets.map`; same ids."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any

import datasets
import numpy as np
import typer

from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.data.encoding import Encoder
from llm_jp_modernbert.training.data.readers import find_files, read_in_turn

from ..measure import OURS, Case, report
from ..options import Out, Repeats

PEER, FAST = "datasets.map with the fast tokenizer", "the fast tokenizer alone"


def benchmark(
    files: Annotated[list[str], typer.Argument(help="Texts.")],
    tokenizer: Annotated[str, typer.Option()],
    megabytes: Annotated[float, typer.Option(help="Text per turn.", min=0.001)] = 5.0,
    threads: Annotated[int, typer.Option(help="Of this library's encoder.", min=1)] = 2,
    repeats: Repeats = 5,
    out: Out = None,
) -> None:
    """Bytes of text per second that are tokenised, with the same ids."""
    report(of_texts(files, tokenizer, megabytes, threads), repeats, out)


def of_texts(files: Sequence[str], tokenizer: str, megabytes: float, threads: int) -> Case:
    """The first documents of the files, one of each in turn.

    Args:
        files: texts.
        tokenizer: as for a recipe.
        megabytes: of text in UTF-8, in a turn.
        threads: of this library's encoder; the fast tokenizer takes those that it finds.
    """
    # A pipeline of transformers, such as that of another row, turns off the threads of its tokenizers for good.
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    made: Any = load_tokenizer(tokenizer)
    texts, size = [], 0
    for document in read_in_turn(find_files(list(files))):
        if size >= megabytes * 1e6:
            break
        texts.append(document.text)
        size += len(document.text.encode())
    encoder = Encoder(made, threads)
    dataset = datasets.Dataset.from_dict({"text": texts})
    datasets.disable_progress_bars()

    def ids(batch: Sequence[str]) -> Any:
        return made(list(batch), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]

    def ours(turn: int) -> float:
        encoder.encode(texts)
        return size / 1e6

    def fast(turn: int) -> float:
        ids(texts)
        return size / 1e6

    def mapped(turn: int) -> float:
        dataset.map(
            lambda batch: {"input_ids": ids(batch["text"])},
            batched=True,
            remove_columns=["text"],
            load_from_cache_file=False,
        )
        return size / 1e6

    same = sum(np.array_equal(a, b) for a, b in zip(encoder.encode(texts), ids(texts), strict=True))
    settings = {
        "documents": len(texts),
        "MB of a turn": round(size / 1e6, 1),
        "documents with the same ids": same,
        "threads of the encoder": threads,
    }
    return Case("tokenising a corpus", "MB", PEER, {PEER: mapped, FAST: fast, OURS: ours}, settings)
