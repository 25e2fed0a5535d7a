"""Sentences per second whose mask is filled on a CPU, one at a time, against transformers' pipeline in float32.

Both have the same weights and give the five likeliest tokens. How often the first of them is the same is counted over
the prompts of the fill-mask test.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from transformers import pipeline

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.evaluation.tasks.fill_mask import PROMPTS
from llm_jp_modernbert.inference.fill_mask import fill_masks, with_mask_token
from llm_jp_modernbert.inference.loading import load_masked_lm, load_tokenizer
from llm_jp_modernbert.inference.packed_weights import load_fast_masked_lm
from llm_jp_modernbert.training.recipe.shapes import model_config

from ..measure import OURS, Case, report
from ..options import Out, Repeats, Shape

PEER = "transformers' pipeline, float32"
FAST = f"{OURS}, --fast"
SAME_FIRST = "same first candidate"
"""The setting that says how often a candidate's first token is the peer's."""

# The prompts of the fill-mask test are read together.
_PROMPTS_AT_ONCE = 16


def benchmark(
    tokenizer: Annotated[str, typer.Option()],
    model: Annotated[str | None, typer.Option(help="A trained model, in the place of random weights.")] = None,
    shape: Shape = "base",
    text: Annotated[str, typer.Option()] = "今日のご飯は[MASK]である。",
    sentences: Annotated[int, typer.Option(help="Times that it is read in a turn.", min=1)] = 5,
    prompts: Annotated[int | None, typer.Option(help="To compare on; by default all.", min=1)] = None,
    repeats: Repeats = 11,
    out: Out = None,
) -> None:
    """Sentences per second whose mask is filled on a CPU, against transformers' pipeline."""
    report(one_sentence(tokenizer, model, shape, text, sentences, prompts), repeats, out)


def one_sentence(
    tokenizer: str,
    model: str | None = None,
    shape: str = "base",
    text: str = "今日のご飯は[MASK]である。",
    sentences: int = 5,
    prompts: int | None = None,
) -> Case:
    """A short sentence, read by itself.

    Args:
        tokenizer: as for a recipe.
        model: a trained model, in the place of random weights.
        shape: of random weights.
        text: the sentence.
        sentences: times that it is read in a turn.
        prompts: to compare the first candidates on; by default all.
    """
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
        plain = load_masked_lm(name, dtype="float32", device="cpu")
        # A text without a mask is told before anything is measured.
        fill_masks(plain, vocabulary, [text])
        peer: Any = pipeline("fill-mask", model=name, tokenizer=vocabulary, device="cpu", dtype=torch.float32)
        halved = load_masked_lm(name, dtype="bfloat16", device="cpu")
        began = time.perf_counter()
        fast = load_fast_masked_lm(name)
        seconds = time.perf_counter() - began
    models = {FAST: fast, f"{OURS}, float32": plain, f"{OURS}, bfloat16": halved}
    texts = [json.loads(line)["text"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()][:prompts]
    written = [with_mask_token(one, vocabulary.mask_token) for one in texts]
    first = [found[0]["token"] for found in peer(written, top_k=1, batch_size=_PROMPTS_AT_ONCE)]
    same = {}
    for which, candidate in models.items():
        found = [result.masks[0][0].token_id for result in fill_masks(candidate, vocabulary, texts, 1)]
        same[which] = round(sum(a == b for a, b in zip(found, first, strict=True)) / len(first), 4)
    sentence = with_mask_token(text, vocabulary.mask_token)
    settings: dict[str, Any] = {
        "weights": f"random, {shape}" if model is None else Path(model).name,
        "tokens": len(vocabulary(sentence).input_ids),
        "seconds to load --fast": round(seconds, 1),
        "prompts": len(texts),
        "distinct first candidates": len(set(first)),
        SAME_FIRST: same,
    }

    def pipe(turn: int) -> float:
        return float(sum(bool(peer(sentence, top_k=5)) for _ in range(sentences)))

    def ours(which: Any) -> Callable[[int], float]:
        return lambda turn: float(sum(len(fill_masks(which, vocabulary, [text])) for _ in range(sentences)))

    candidates = {PEER: pipe} | {which: ours(candidate) for which, candidate in models.items()}
    return Case("fill-mask, one sentence", "sentences", PEER, candidates, settings)
