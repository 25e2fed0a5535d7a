"""Tokenizing a corpus with this library's encoder, against the fast tokenizer alone and in `datasets.map`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import datasets
import numpy as np
import typer

from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.data.encoding import Encoder
from llm_jp_modernbert.training.data.readers import find_files, read_in_turn

from ..measure import OURS, Candidate, Case
from ..models import Tokenizer

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
    """The first documents of the files, taken from each file in turn. The fast tokenizer uses all cores."""
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

    def run_map() -> None:
        dataset.map(
            lambda batch: {"input_ids": fast_ids(batch["text"])},
            batched=True,
            remove_columns=["text"],
            load_from_cache_file=False,
        )

    def candidate(work: Callable[[], Any]) -> Candidate:
        def run(turn: int) -> float:
            work()
            return size / 1e6

        return run

    settings = {
        "documents": len(texts),
        "MB of a turn": round(size / 1e6, 1),
        "documents with the same ids": sum(map(np.array_equal, encoder.encode(texts), fast_ids(texts))),
        "threads of the encoder": threads,
    }
    works = {PEER: run_map, FAST: lambda: fast_ids(texts), OURS: lambda: encoder.encode(texts)}
    candidates = {name: candidate(work) for name, work in works.items()}
    return Case("tokenising a corpus", "MB", PEER, candidates, settings)
