"""Tokenising a corpus: this library's encoder against the fast tokenizer, alone and in `datasets.map`; same ids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import datasets
import numpy as np
import typer

from llm_jp_modernbert.loading import load_tokenizer
from llm_jp_modernbert.training.encoding import Encoder
from llm_jp_modernbert.training.sources import find_files, read_documents

from .measure import interleaved, report


def benchmark(
    files: Annotated[list[str], typer.Argument(help="Texts.")],
    tokenizer: Annotated[str, typer.Option()],
    megabytes: Annotated[float, typer.Option(help="Text per turn.")] = 5.0,
    threads: Annotated[int, typer.Option()] = 2,
    repeats: Annotated[int, typer.Option()] = 5,
    out: Annotated[Path | None, typer.Option(help="File for the JSON.")] = None,
) -> None:
    """Bytes of text per second that are tokenised, with the same ids."""
    made: Any = load_tokenizer(tokenizer)
    texts, size = [], 0
    for path in find_files(files):
        for document in read_documents(path):
            if size < megabytes * 1e6:
                texts.append(document.text)
                size += len(document.text.encode())
    encoder = Encoder(made, threads)
    results: dict[str, Any] = {}
    dataset = datasets.Dataset.from_dict({"text": texts})
    datasets.disable_progress_bars()

    def ours(turn: int) -> float:
        results["ours"] = encoder.encode(texts)
        return size

    def fast(turn: int) -> float:
        results["fast"] = made(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        return size

    def mapped(turn: int) -> float:
        dataset.map(
            lambda batch: made(batch["text"], add_special_tokens=False), batched=True, load_from_cache_file=False
        )
        return size

    name = "datasets.map"
    rates = interleaved({"this library": ours, "fast tokenizer": fast, name: mapped}, repeats)
    same = sum(np.array_equal(a, b) for a, b in zip(results["ours"], results["fast"], strict=True))
    settings = {"documents": len(texts), "equal ids": f"{same} of {len(texts)}", "threads of the encoder": threads}
    report("tokenising, bytes/s", settings, rates, name, out)
