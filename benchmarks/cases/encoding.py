"""Vectors of many real texts, tokenizing included: this library against `encode` of sentence-transformers.

All candidates give the same normalized means of the last hidden states. The peer sorts texts by length as well; it
pads each batch of a number of texts, this library packs a number of tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.encoder.choice import BackendName
from llm_jp_modernbert.inference.encoder.encoder import Encoder, load_encoder
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.data.readers import find_files, read_in_turn

from ..measure import OURS, Candidate, Case
from ..models import DATA_VARIABLE, Models, Shape, find_data, whole_numbers

PEER = "sentence-transformers"

_BACKENDS: tuple[BackendName, ...] = ("torch", "openvino")


def cases(
    shape: Shape = "nano",
    texts: Annotated[int, typer.Option(help="Number of texts.", min=2)] = 1000,
    shortest: Annotated[int, typer.Option(help="Characters of the shortest text.", min=1)] = 20,
    longest: Annotated[int, typer.Option(help="Characters of the longest text.", min=1)] = 4000,
    batch_sizes: Annotated[str, typer.Option(help="Comma-separated batch sizes of the peer.")] = "32,8",
    data: Annotated[Path | None, typer.Option(help="Folder with tokenizer/*.model and corpus/manuals/.")] = None,
) -> Iterator[Case]:
    """Measure tokens/s of the vectors of paragraphs and pages of manuals, against sentence-transformers."""
    found = find_data(data)
    if found is None:
        raise UsageError(f"Real texts are needed: set --data or {DATA_VARIABLE}.")
    drawn = realistic_texts(found.corpus, texts, shortest, longest)
    with TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(found.tokenizer)
        models = Models(shape, len(tokenizer), device="cpu")
        models.ours("float32").model.save_pretrained(folder, format="plain")
        tokenizer.save_pretrained(folder)
        sizes = whole_numbers("--batch-sizes", batch_sizes)
        yield encoding_case(folder, drawn, sizes, models.settings)


def realistic_texts(corpus: str, count: int, shortest: int, longest: int) -> list[str]:
    """Random pages of a corpus and, as many, random paragraphs of pages; long ones are cut."""
    pages = [document.text for document in read_in_turn(find_files([corpus]))]
    paragraphs = [paragraph for page in pages for paragraph in page.split("\n")]
    draw = random.Random(0)
    texts: list[str] = []
    for source, wanted in ((pages, count // 2), (paragraphs, count - count // 2)):
        usable = [text for text in source if len(text) >= shortest]
        texts += [text[:longest] for text in draw.sample(usable, min(wanted, len(usable)))]
    draw.shuffle(texts)
    return texts


def encoding_case(folder: str, texts: Sequence[str], sizes: Sequence[int], settings: dict[str, Any]) -> Case:
    """Encodes all texts with each candidate; the peer with several batch sizes."""
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(folder, device="cpu")
    encoders = {name: load_encoder(folder, backend=name, device="cpu") for name in _BACKENDS}
    ours = encoders[_BACKENDS[0]]
    lengths = [
        len(ids) for ids in ours.tokenizer(list(texts), truncation=True, max_length=ours.max_length)["input_ids"]
    ]
    peer.max_seq_length = ours.max_length

    def theirs(size: int) -> Candidate:
        def run(turn: int) -> float:
            chosen = texts if turn else texts[:32]
            peer.encode(list(chosen), batch_size=size, normalize_embeddings=True, show_progress_bar=False)
            return float(sum(lengths))

        return run

    def own(encoder: Encoder) -> Candidate:
        def run(turn: int) -> float:
            encoder.encode(list(texts if turn else texts[:32]))
            return float(sum(lengths))

        return run

    peers = {f"{PEER}, batches of {size}": theirs(size) for size in sizes}
    own_names = {f"{OURS}, {name}": own(encoder) for name, encoder in encoders.items()}
    settings = {
        **settings,
        "dtype": "float32",
        "texts": len(texts),
        "tokens": sum(lengths),
        "median": sorted(lengths)[len(lengths) // 2],
        "longest": max(lengths),
    }
    return Case("vectors of texts, float32", "tokens", next(iter(peers)), {**peers, **own_names}, settings)
