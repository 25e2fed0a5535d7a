"""Texts per second that are made into embeddings, against a plain SentenceTransformer on transformers' ModernBERT.

Both have the same weights and the same texts: JSTS's sentences and JaQuAD's paragraphs, in the order of a seed. The
peer encodes by its defaults (32 texts at a time, sorted by length, padded); its batch size can be raised.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
import torch
import typer

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.evaluation.data.readers import find, json_lines, squad_articles
from llm_jp_modernbert.evaluation.encoders.embeddings import Embedder
from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.recipe.shapes import model_config

from ..measure import OURS, Case, report
from ..options import Out, Repeats, Shape

PEER = "plain SentenceTransformer"


def benchmark(
    data: Annotated[Path, typer.Argument(help="Folder with JSTS and JaQuAD.")],
    tokenizer: Annotated[str, typer.Option()],
    shape: Shape = "nano",
    sentences: Annotated[int, typer.Option(help="Of JSTS, or as many as there are.", min=1)] = 400,
    paragraphs: Annotated[int, typer.Option(help="Of JaQuAD, or as many as there are.", min=1)] = 200,
    batch_size: Annotated[int, typer.Option(help="Of the peer.", min=1)] = 32,
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of both.")] = "auto",
    repeats: Repeats = 5,
    out: Out = None,
) -> None:
    """Texts per second into embeddings, against a plain SentenceTransformer."""
    from sentence_transformers import SentenceTransformer

    texts = _texts(data, sentences, paragraphs)
    with TemporaryDirectory() as folder:
        vocabulary = load_tokenizer(tokenizer)
        torch.manual_seed(0)
        LlmJpModernBertForMaskedLM(model_config(shape, len(vocabulary))).save_pretrained(folder, format="plain")
        vocabulary.save_pretrained(folder)
        model = EvaluatedModel(ModelName(folder, dtype=dtype))
        ours = Embedder(model)
        peer = SentenceTransformer(folder, model_kwargs={"dtype": getattr(torch, model.dtype)})
        peer.max_seq_length = ours.transformer.max_seq_length

    def turned(turn: int) -> list[str]:
        # Another order in each turn: an embedder keeps what it has encoded.
        return texts[turn + 1 :] + texts[: turn + 1]

    def plain(turn: int) -> np.ndarray:
        return peer.encode(turned(turn), batch_size=batch_size, normalize_embeddings=True)

    def packed(turn: int) -> np.ndarray:
        return ours.encode(turned(turn))

    difference = float(np.abs(plain(-1) - packed(-1)).max())
    candidates: dict[str, Callable[[int], float]] = {
        PEER: lambda turn: float(len(plain(turn))),
        OURS: lambda turn: float(len(packed(turn))),
    }
    settings = {
        "shape": shape,
        "sentences": sentences,
        "paragraphs": paragraphs,
        "batch_size": batch_size,
        "dtype": model.dtype,
        "greatest difference": difference,
    }
    report(Case("encoding", "texts", PEER, candidates, settings), repeats, out)


def _texts(data: Path, sentences: int, paragraphs: int) -> list[str]:
    rows = json_lines(find(data, "jsts-v1.*/valid-v1.*.json")[0], "sentence1", "sentence2")
    short = list(dict.fromkeys(row[key] for row in rows for key in ("sentence1", "sentence2")))
    long = [text for article in squad_articles(find(data, "jaquad_*.json*")).values() for text in article]
    drawn = random.Random(0)
    texts = drawn.sample(short, min(sentences, len(short))) + drawn.sample(long, min(paragraphs, len(long)))
    drawn.shuffle(texts)
    return texts
