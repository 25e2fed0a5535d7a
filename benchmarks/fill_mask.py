"""Sentences per second whose mask is filled on a CPU, one at a time, against transformers' pipeline in float32.

Both have the same weights and give the five likeliest tokens. How often the first of them is the same is counted over
the prompts of the fill-mask test.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from transformers import pipeline

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.evaluation.fill_mask import PROMPTS
from llm_jp_modernbert.fast import load_fast_masked_lm
from llm_jp_modernbert.fill_mask import fill_masks, with_mask_token
from llm_jp_modernbert.loading import load_masked_lm, load_tokenizer
from llm_jp_modernbert.training.shapes import model_config

from .measure import interleaved, report

PEER = "transformers' pipeline, float32"


def benchmark(
    tokenizer: Annotated[str, typer.Option()],
    model: Annotated[str | None, typer.Option(help="A trained model, in the place of random weights.")] = None,
    shape: Annotated[str, typer.Option(help="Of random weights: nano, small or base.")] = "base",
    text: Annotated[str, typer.Option()] = "今日のご飯は[MASK]である。",
    sentences: Annotated[int, typer.Option(help="Times that it is read in a turn.")] = 5,
    longest: Annotated[int, typer.Option(help="Tokens of the prompts to compare on, at most.")] = 128,
    repeats: Annotated[int, typer.Option()] = 11,
    out: Annotated[Path | None, typer.Option(help="File for the JSON.")] = None,
) -> None:
    """Sentences per second whose mask is filled on a CPU, against transformers' pipeline."""
    vocabulary: Any = load_tokenizer(tokenizer)
    with TemporaryDirectory() as folder:
        if model is None:
            torch.manual_seed(0)
            # Wider than for training, so that the first candidate stands out.
            made = LlmJpModernBertForMaskedLM(model_config(shape, len(vocabulary), initializer_range=0.06))
            made.save_pretrained(folder, format="plain")
            vocabulary.save_pretrained(folder)
            del made
        name = model or folder
        peer = pipeline("fill-mask", model=name, tokenizer=vocabulary, device="cpu", dtype=torch.float32)
        plain = load_masked_lm(name, dtype="float32", device="cpu")
        halved = load_masked_lm(name, dtype="bfloat16", device="cpu")
        began = time.perf_counter()
        fast = load_fast_masked_lm(name)
        seconds = time.perf_counter() - began
    models = {"float32": plain, "bfloat16": halved, "--fast": fast}

    def theirs(prompt: str, top_k: int) -> Any:
        return peer(with_mask_token(prompt, vocabulary.mask_token), top_k=top_k)

    texts = [json.loads(line)["text"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    limit = min(longest, plain.config.max_position_embeddings)
    texts = [one for one in texts if len(vocabulary(with_mask_token(one, vocabulary.mask_token)).input_ids) <= limit]
    first = [theirs(one, 1)[0]["token"] for one in texts]
    settings: dict[str, Any] = {
        "weights": model or f"random, {shape}",
        "tokens": len(vocabulary(with_mask_token(text, vocabulary.mask_token)).input_ids),
        "seconds to load --fast": round(seconds, 1),
        "distinct first candidates": len(set(first)),
    }
    for which, candidate in models.items():
        found = [result.masks[0][0].token_id for result in fill_masks(candidate, vocabulary, texts, 1)]
        same = sum(a == b for a, b in zip(found, first, strict=True))
        settings[f"same first candidate, {which}"] = f"{same} of {len(texts)}"

    def ours(which: str) -> Any:
        return lambda turn: float(sum(len(fill_masks(models[which], vocabulary, [text])) for _ in range(sentences)))

    candidates = {PEER: lambda turn: float(sum(bool(theirs(text, 5)) for _ in range(sentences)))}
    candidates |= {f"this package, {which}": ours(which) for which in models}
    report("fill-mask, sentences/s", settings, interleaved(candidates, repeats), PEER, out)
