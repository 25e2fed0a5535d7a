"""Filling the mask of one sentence at a time on a CPU, against transformers' float32 pipeline.

All candidates have the same weights and return the five likeliest tokens. The settings report how often the likeliest
token equals the pipeline's over the prompts of the fill-mask evaluation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
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
from llm_jp_modernbert.inference.packed_weights import prepare_for_inference
from llm_jp_modernbert.training.recipe.shapes import model_config

from ..measure import OURS, Candidate, Case
from ..models import Shape, Tokenizer

PEER = "transformers' pipeline, float32"
FAST = f"{OURS}, float16 weights"
# Key of the setting that holds each candidate's share of prompts with the pipeline's likeliest token.
SAME_FIRST = "same first candidate"

_TEXT = "今日のご飯は[MASK]である。"
_SENTENCES = 5  # per turn


def cases(
    tokenizer: Tokenizer,
    model: Annotated[str | None, typer.Option(help="Trained model; by default random weights.")] = None,
    shape: Shape = "base",
    prompts: Annotated[int | None, typer.Option(help="Compared prompts; by default all.", min=1)] = None,
) -> Iterator[Case]:
    """Measure sentences/s of filling masks on a CPU, against transformers' pipeline."""
    yield one_sentence(tokenizer, model, shape, prompts)


def one_sentence(tokenizer: str, model: str | None, shape: str, prompts: int | None) -> Case:
    """One short sentence at a time; see `cases` for the arguments."""
    loaded: Any = load_tokenizer(tokenizer)
    with TemporaryDirectory() as folder:
        if model is None:
            torch.manual_seed(0)
            # Wider than for training, so that the likeliest token is unambiguous.
            random = LlmJpModernBertForMaskedLM(model_config(shape, len(loaded), initializer_range=0.06))
            random.save_pretrained(folder, format="plain")
            loaded.save_pretrained(folder)
            del random
        source = model or folder
        plain = load_masked_lm(source, dtype="float32", device="cpu")
        peer: Any = pipeline("fill-mask", model=source, tokenizer=loaded, device="cpu", dtype=torch.float32)
        bfloat16 = load_masked_lm(source, dtype="bfloat16", device="cpu")
        start = time.perf_counter()
        fast = prepare_for_inference(load_masked_lm(source, dtype="float32", device="cpu"), torch.float16)
        seconds = time.perf_counter() - start
    models = {FAST: fast, f"{OURS}, float32": plain, f"{OURS}, bfloat16": bfloat16}
    texts = [json.loads(line)["text"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()][:prompts]
    masked = [with_mask_token(prompt, loaded.mask_token) for prompt in texts]
    likeliest = [results[0]["token"] for results in peer(masked, top_k=1, batch_size=16)]
    same = {}
    for name, candidate in models.items():
        tokens = [result.masks[0][0].token_id for result in fill_masks(candidate, loaded, texts, 1)]
        same[name] = round(sum(map(int.__eq__, tokens, likeliest)) / len(likeliest), 4)
    sentence = with_mask_token(_TEXT, loaded.mask_token)
    settings: dict[str, Any] = {
        "weights": f"random, {shape}" if model is None else Path(model).name,
        "tokens": len(loaded(sentence).input_ids),
        "seconds to load float16 weights": round(seconds, 1),
        "prompts": len(texts),
        "distinct first candidates": len(set(likeliest)),
        SAME_FIRST: same,
    }

    def run_peer(turn: int) -> float:
        return float(sum(bool(peer(sentence, top_k=5)) for _ in range(_SENTENCES)))

    def run_ours(candidate: Any, turn: int) -> float:
        return float(sum(len(fill_masks(candidate, loaded, [_TEXT])) for _ in range(_SENTENCES)))

    candidates: dict[str, Candidate] = {
        PEER: run_peer,
        **{name: partial(run_ours, candidate) for name, candidate in models.items()},
    }
    return Case("fill-mask, one sentence", "sentences", PEER, candidates, settings)
