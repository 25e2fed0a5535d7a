"""Tokenizing a corpus with this library's encoder, against the fast tokenizer alone and in `datasets.map`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import datasets
import numpy as np
import typer

from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.data.encoding import Encoder
from llm_jp_modernbert.training.data.readers import find_files, read_in_turn

from ..measure import OURS, Case
from ..options import Tokenizer

PEER, FAST = "datasets.map with the fast tokenizer", "the fast tokenizer alone"


def cases(
    files: Annotated[list[str], typer.Argument(help="Files or folders of texts.")],
    tokenizer: Tokenizer,
    megabytes: Annotated[float, typer.Option(help="Text per turn, in MB of UTF-8.", min=0.001)] = 5.0,
    threads: Annotated[int, typer.Option(help="Threads of this library's encoder.", min=1)] = 2,
) -> Iterator[Case]:
    """Measure MB of text tokenized per second, and compare the token ids."""
    yield corpus(files, tokenizer, megabytes, threads)


def corpus(files: Sequence[str], tokenizer: str, megabytes: float, threads: int) -> Case:
    """The first documents of the files, taken from each file in turn.

    Args:
        files: files or folders of texts.
        tokenizer: directory, repository or SentencePiece model.
        megabytes: text per turn, in MB of UTF-8.
        threads: threads of this library's encoder; the fast tokenizer uses all cores.
    """
    # transformers' pipelines, as used by another row, turn off the threads of tokenizers in this process.
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    loaded: Any = load_tokenizer(tokenizer)
    texts, size = [], 0
    for document in read_in_turn(find_files(list(files))):
        if size >= megabytes * 1e6:
            break
        texts.append(document.text)
        size += len(document.text.encode())
    encoder = Encoder(loaded, threads)
    dataset = datasets.Dataset.from_dict({"text": texts})
    datasets.disable_progress_bars()

    def fast_ids(batch: Sequence[str]) -> Any:
        return loaded(list(batch), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]

    def run_ours(turn: int) -> float:
        encoder.encode(texts)
        return size / 1e6

    def run_fast(turn: int) -> float:
        fast_ids(texts)
        return size / 1e6

    def run_map(turn: int) -> float:
        dataset.map(
            lambda batch: {"input_ids": fast_ids(batch["text"])},
            batched=True,
            remove_columns=["text"],
            load_from_cache_file=False,
        )
        return size / 1e6

    settings = {
        "documents": len(texts),
        "MB of a turn": round(size / 1e6, 1),
        "documents with the same ids": sum(map(np.array_equal, encoder.encode(texts), fast_ids(texts))),
        "threads of the encoder": threads,
    }
    return Case("tokenising a corpus", "MB", PEER, {PEER: run_map, FAST: run_fast, OURS: run_ours}, settings)
